"""Claims: the rule for a verdict at its edges, each claim on data in which it holds, fails or is
not shown, settings that cannot tell, one row a claim, and the committed reports."""

import itertools
import math
import re
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ROOT

from starlight_nb.paper import cli
from starlight_nb.paper.better_star import BY_ACTIVATIONS, USUAL
from starlight_nb.paper.catalogue import experiment_names
from starlight_nb.paper.claim_tests import WORSE_THAN_GUESS, CONNECTED, TOO_FEW, chance_loss
from starlight_nb.paper.claim_tests_beyond import NO_SOLUTION
from starlight_nb.paper.claims import (
    BEYOND,
    CLAIM_COLUMNS,
    VERDICTS,
    claims_of,
    keep_verdicts,
    merge_claims,
    overall_verdict,
    paper_claims,
    read_claims,
    report_claims,
    save_claims,
    standing_claims,
    verdict,
)
from starlight_nb.paper.kernel import DISJOINT, MORE, ONE, SAME
from starlight_nb.paper.published import published
from starlight_nb.paper.report import save_data
from starlight_nb.paper.study import COLUMNS

NAN = math.nan


@pytest.mark.parametrize("low, high, above, below, expected", [
    (0.2, 0.9, None, 1, "holds"),
    (0.2, 1.0, None, 1, "not shown"),  # it touches the bound
    (0.2, 1.1, None, 1, "not shown"),
    (1.0, 1.1, None, 1, "not shown"),
    (1.1, 1.2, None, 1, "fails"),
    (0.1, 0.2, 0, None, "holds"),
    (0.0, 0.0, 0, None, "not shown"),
    (-0.2, -0.1, 0, None, "fails"),
    (0.9, 1.1, 0.8, 1.25, "holds"),
    (0.8, 1.1, 0.8, 1.25, "not shown"),
    (0.7, 1.3, 0.8, 1.25, "not shown"),  # uncertain is not equal
    (0.5, 0.7, 0.8, 1.25, "fails"),
    (1.3, 1.5, 0.8, 1.25, "fails"),
    (NAN, NAN, None, 1, "not shown"),
])
def test_a_verdict_follows_from_the_interval(low, high, above, below, expected):
    bounds = {name: bound for name, bound in (("above", above), ("below", below)) if bound is not None}
    assert verdict(low, high, **bounds) == expected


@pytest.mark.parametrize("verdicts, enough, expected", [
    (["holds", "holds"], False, "holds"),
    (["holds", "not shown"], False, "not shown"),
    (["holds", "fails", "not shown"], False, "fails"),
    ([], False, "not shown"),
    (["holds", "fails", "not shown"], True, "holds"),
    (["fails", "not shown"], True, "not shown"),
    (["fails", "fails"], True, "fails"),
])
def test_one_verdict_over_settings(verdicts, enough, expected):
    assert overall_verdict(verdicts, enough) == expected


# Hand-made tidy data: each model moves its barriers by up to 4 %, so intervals are short and a
# value at a bound has the bound inside its interval.
HELD = {f"heldout-{n}": 1 + 0.04 * effect for n, effect in enumerate((-1, 0.3, -0.5, 1))}
STARS = {0: 0.97, 1: 1.0, 2: 1.03}


def rows(pair, value, setting="A", n_source=None, options="", **columns):
    "Rows of one kind of pair: of four held-outs with each other, or of three stars with the four."
    about = dict(setting=setting, architecture="mlp", dataset="digits", split="train",
                 metric="loss_barrier", pair=pair, n_source=n_source)
    if pair == "regular-regular":
        values = {(a, b): HELD[a] * HELD[b] for a, b in itertools.combinations(HELD, 2)}
    else:
        values = {(f"star-n{n_source}{options}-s{seed}", end): STARS[seed] * HELD[end]
                  for seed in STARS for end in HELD}
    found = [about | dict(model_a=a, model_b=b, value=value * factor) | columns
             for (a, b), factor in values.items()]
    return pd.DataFrame(found, columns=[*COLUMNS, *columns.keys() - set(COLUMNS)])


def barriers(regular, star, setting="A", n_source=10, **columns):
    return pd.concat([rows("regular-regular", regular, setting, **columns),
                      rows("star-heldout", star, setting, n_source, **columns)])


def losses(names, value, setting="A", **columns):
    about = dict(setting=setting, architecture="mlp", dataset="digits", split="train",
                 metric="loss", pair="single")
    found = [about | dict(model_a=name, value=value * factor) | columns
             for name, factor in zip(names, (0.96, 1.0, 1.04))]
    return pd.DataFrame(found, columns=[*COLUMNS, *columns.keys() - set(COLUMNS)])


def height(pair):
    def data(value):
        regular = [] if pair == "regular-regular" else [rows("regular-regular", 0.5)]
        return pd.concat([*regular, rows(pair, value, n_source=10)])
    return data


def ratio(value, **columns): return barriers(0.5, 0.5 * value, **columns)


def on_test_data(value):
    "The ratio is 0.4 on the training data, and differs by `value` on the test data."
    return pd.concat([ratio(0.4), ratio(0.4 + value, split="test")])


def by_sources(value):
    "The barrier halves from one source to five, and changes by a factor to the twenty."
    parts = [rows("star-heldout", mean, n_source=n) for n, mean in ((1, 0.4), (5, 0.2))]
    return pd.concat([rows("regular-regular", 0.5), *parts,
                      rows("star-heldout", 0.2 * value, n_source=20)])


def fall_by_sources(value):
    return pd.concat([by_sources(1).query("n_source != 1 and n_source != 20"),
                      rows("star-heldout", 0.2 / value, n_source=2)])


def adam(value): return pd.concat([barriers(0.5, 0.2), barriers(0.5 * value, 0.2 * value, "A, Adam")])


def series(name, *points):
    return pd.concat([barriers(*point, f"{name} {n}", series=name) for n, point in enumerate(points)])


def widths(value):
    return series("width", (0.5, 0.2), (0.4, 0.2), (0.5 * value, 0.2 * value))


def thirds(value): return series("width", *((x, x * value) for x in (0.5, 0.25, 0.1)))


def intercept(value): return series("width", *((x, x / 3 + value) for x in (0.5, 0.25, 0.1)))


def depths(value): return series("depth", (0.2, 0.2 * value), (0.4, 0.4 * value))


def both_series(value):
    "Widths change barriers by a factor of 0.2, and depths by that to the power of a value."
    grown = 0.1 * 0.2**-value
    return pd.concat([series("width", (0.5, 0.5), (0.1, 0.1)),
                      series("depth", (0.1, 0.1), (grown, grown))])


def averages(metric, stars=3):
    def data(value):
        domain = [dict(setting="A", split="test", method="star domain", metric=metric, value=0.5,
                       model_a=f"star-n10-s{n}") for n in range(stars)]
        ends = [dict(setting="A", split="test", method="star domain - deep ensemble",
                     metric=metric + end, value=value + by)
                for end, by in (("", 0), ("_low", -0.01), ("_high", 0.01))]
        return pd.DataFrame(domain + ends, columns=[*COLUMNS, "method", "draws", "bin"])
    return data


def fused(other):
    def data(value):
        about = dict(setting="A", architecture="mlp", dataset="digits", split="test",
                     metric="accuracy", pair="single", n_source=10, first=0)
        stars = [dict(method="fused star", model_a=f"fused-n10-s{n}", value=0.9 + value / 100 + by)
                 for n, by in enumerate((-0.002, 0, 0.002))]
        if other == "ensemble": beside = [dict(method=other, model_a="ensemble-n10", value=0.9)]
        else:
            beside = [dict(method=other, model_a=f"source-{n}", value=0.9 + by)
                      for n, by in enumerate((-0.001, 0, 0.001))]
        return pd.DataFrame([about | row for row in [*stars, *beside]], columns=[*COLUMNS, "method", "first"])
    return data


def sampled(value):
    stars = [rows("star-heldout", mean, n_source=10, options=f"-{name}", t_sampling=name)
             for name, mean in (("uniform", 0.2), ("Beta(2,2)", 0.2 * value))]
    return pd.concat([rows("regular-regular", 0.5), *stars])


def constant(value):
    about = dict(n_source=10)
    return pd.concat([
        losses([f"star-n10-s{n}" for n in range(3)], 0.001, t_sampling="uniform", **about),
        losses([f"star-n10-c-s{n}" for n in range(3)], 0.001 + value, t_sampling="constant 0.5",
               **about)])


def solution(value):
    return pd.concat([losses(["heldout-0", "heldout-1", "heldout-2"], 0.001),
                      losses([f"star-n10-s{n}" for n in range(3)], 0.001 + value, n_source=10)])


def many_heldouts(value, count=12):
    "Barriers to and between the first three held-outs are those of the others, times a value."
    about = dict(setting="A", architecture="mlp", dataset="digits", split="train", metric="loss_barrier")
    ends = [*itertools.combinations(range(count), 2), *itertools.product(("s0", "s1"), range(count))]
    found = []
    for a, b in ends:
        between = isinstance(a, int)
        first_three = b < 3  # of a pair of held-outs, b is the later one
        found.append(about | dict(
            pair="regular-regular" if between else "star-heldout",
            model_a=f"heldout-{a}" if between else f"star-n10-{a}", model_b=f"heldout-{b}",
            n_source=None if between else 10,
            value=(0.5 if between else 0.2) * (value if first_three else 1) * (0.96 + 0.04 * (b % 3))))
    return pd.DataFrame(found, columns=COLUMNS)


def many_points(value):
    return pd.concat([barriers(0.5, 0.2, points=11), barriers(0.5 * value, 0.2 * value, points=51)])


def star_star(sources):
    "Barriers of `value` between stars, where those between regular solutions are 0.5."
    def data(value):
        stars = rows("star-star", value, n_source=10, candidate=sources, averaged=1)
        return pd.concat([rows("regular-regular", 0.5, candidate=None, averaged=1), stars])
    return data


def times_half(data):
    "The same data, from a value as a multiple of 0.5."
    return lambda value: data(0.5 * value)


def averaged(other, k):
    """The average of `k` stars has the barrier of another candidate times a value; any other
    candidate and number of stars has barriers that would give another verdict."""
    def data(value):
        parts = [rows("regular-regular", 0.5, candidate=None, averaged=1)]
        for count in (2, 5):
            mine = 0.2 * value if count == k else 9.0
            parts += [rows("star-heldout", mine, n_source=10, candidate="average, disjoint sources",
                           averaged=count, options="-mean"),
                      rows("star-heldout", 0.2 if other == MORE and count == k else 7.0,
                           n_source=50, candidate=MORE, averaged=count, options=f"-x{count}")]
        one = 0.2 if other == ONE else 8.0
        parts += [rows("star-heldout", one, n_source=10, candidate=ONE, averaged=1),
                  rows("star-heldout", 6.0, n_source=25, candidate=ONE, averaged=1)]
        return pd.concat(parts)
    return data


def average_solution(value):
    """The losses of averages of two and of five stars are higher by a value; those of other
    averages and of rivals would give another verdict."""
    about = dict(candidate="average, disjoint sources", n_source=10)
    other = 9.0 if value < 0.05 else 0.001
    names = [f"star-{kind}-s{{}}" for kind in ("mean2", "mean5", "same", "n50")]
    two, five, same, more = ([name.format(n) for n in range(3)] for name in names)
    return pd.concat([
        losses(["heldout-0", "heldout-1", "heldout-2"], 0.001, candidate=None, averaged=1),
        losses(two, 0.001 + value, averaged=2, **about),
        losses(five, 0.001 + value, averaged=5, **about),
        losses(same, other, averaged=5, n_source=10, candidate="average, same sources"),
        losses(more, other, averaged=5, n_source=50, candidate=MORE)])


def better(value):
    """The way that is best for the first half of the held-outs has the usual barrier times a value
    to the second half; another way, which is not chosen, has a tenth of it. Matching by activations
    would be the best, but trains no other star."""
    heights = {USUAL: (0.2, 0.2), "four segments a batch": (0.05, 0.2 * value),
               "average of the last half": (0.1, 0.02), BY_ACTIVATIONS: (0.01, 0.02)}
    return ways(heights)


def by_activations(value):
    "Held-outs that are matched by activations have the usual barrier times a value."
    return ways({USUAL: (0.2, 0.2), BY_ACTIVATIONS: (0.3, 0.2 * value),
                 "average of the last half": (0.1, 0.02)})


def ways(heights):
    "Barriers of each way, to the first and to the second half of the held-outs."
    parts = [rows("regular-regular", 0.5, way=None, half="report")]
    for way, (choice, report) in heights.items():
        parts += [rows("star-heldout", mean, n_source=10, way=way, half=half, options=f"-{way}")
                  for half, mean in (("choice", choice), ("report", report))]
    return pd.concat(parts)


def matched(value):
    return pd.concat([rows("regular-regular", 0.5, matching="none"),
                      rows("regular-regular", 0.5 * value, matching="forward"),
                      rows("regular-regular", 3.0, matching="activations")])


def on_paths(make, repair):
    "Data of which a value is so on the paths of one kind; on the others it is very different."
    def both(value):
        own, other = make(value).assign(repair=repair), make(9).assign(repair=not repair)
        return pd.concat([own, other], ignore_index=True)
    return both


CASES = {  # the experiment, data in which a value is so, and a value: claim holds, bound, claim fails
    "regular-not-connected": ("fig3_paths", height("regular-regular"), 0.1, 0.05, 0.02),
    "star-near-sources": ("fig3_paths", height("star-source"), 0.02, 0.05, 0.1),
    "star-near-heldouts": ("table1_barriers", height("star-heldout"), 0.02, 0.05, 0.1),
    "star-is-a-solution": ("table1_barriers", solution, 0.01, 0.05, 0.1),
    "stars-below-regular": ("table1_barriers", ratio, 0.5, 1, 1.5),
    "falls-with-sources": ("fig1_source_count", fall_by_sources, 0.5, 1, 1.5),
    "still-falling": ("fig1_source_count", by_sources, 0.5, 1, 1.5),
    "adam-raises": ("table1_barriers", adam, 2, 1, 0.5),
    "falls-with-width": ("fig2_width_depth", widths, 0.3, 1, 1.5),
    "third-of-regular": ("fig2_width_depth", thirds, 0.35, 0.5, 0.8),
    "star-in-proportion": ("appendix_relationship", intercept, 0.001, 0.05, 0.2),
    "below-at-any-depth": ("fig2_width_depth", depths, 0.5, 1, 1.5),
    "depth-changes-less": ("fig2_width_depth", both_series, 0.5, 1, 1.5),
    "below-on-test-data": ("appendix_test_metrics",
                           lambda value: ratio(value, split="test"), 0.5, 1, 1.5),
    "below-in-accuracy": ("appendix_test_metrics",
                          lambda value: ratio(value, split="test", metric="accuracy_barrier"), 0.5, 1, 1.5),
    "same-on-test-data": ("appendix_test_metrics", on_test_data, 0.05, 0.25, 0.5),
    "better-auroc-by-probability": ("fig4_bma", averages("auroc_maxprob"), 0.02, 0, -0.02),
    "better-auroc-by-entropy": ("fig4_bma", averages("auroc_entropy"), 0.02, 0, -0.02),
    "worse-calibration": ("fig4_bma", averages("ece"), 0.02, 0, -0.02),
    "fused-above-regular": ("table2_fusion", fused("regular"), 1, 0, -1),
    "fused-below-ensemble": ("table2_fusion", fused("ensemble"), -1, 0, 1),
    "beta-a-little-lower": ("appendix_t_sampling", sampled, 0.8, 1, 0.3),
    "constant-t-no-solution": ("appendix_t_sampling", constant, 0.1, 0.05, 0.01),
    "heldouts-change-nothing": ("appendix_heldouts", many_heldouts, 1, 0.78, 0.2),
    "points-change-nothing": ("appendix_points", many_points, 1.01, 1.25, 1.5),
    "stars-of-same-sources-connected": ("beyond_kernel", star_star(SAME), 0.02, 0.05, 0.1),
    "stars-of-disjoint-sources-connected": ("beyond_kernel", star_star(DISJOINT), 0.02, 0.05, 0.1),
    "stars-closer-than-solutions": ("beyond_kernel", times_half(star_star(DISJOINT)), 0.5, 1, 1.5),
    "midpoint-is-a-star": ("beyond_kernel", averaged(ONE, 2), 1, 1.25, 1.5),
    "average-is-a-solution": ("beyond_kernel", average_solution, 0.01, 0.05, 0.1),
    "average-is-a-better-star": ("beyond_kernel", averaged(ONE, 5), 0.5, 1, 1.5),
    "average-worth-its-cost": ("beyond_kernel", averaged(MORE, 5), 0.5, 1, 1.5),
    "better-star": ("beyond_better_star", better, 0.5, 1, 1.5),
    "heldouts-by-activations": ("beyond_better_star", by_activations, 0.5, 1, 1.5),
    "transformer-matched": ("beyond_transformer", on_paths(matched, False), 0.5, 1, 1.5),
    "transformer-star": ("beyond_transformer", on_paths(ratio, False), 0.5, 1, 1.5),
    "transformer-matched-repair": ("beyond_transformer", on_paths(matched, True), 0.5, 1, 1.5),
    "transformer-star-repair": ("beyond_transformer", on_paths(ratio, True), 0.5, 1, 1.5),
}


def test_every_claim_has_a_case():
    assert CASES.keys() == paper_claims().keys()


@pytest.mark.parametrize("position, expected", list(enumerate(VERDICTS)))
@pytest.mark.parametrize("name", CASES)
def test_a_claim_holds_fails_or_is_not_shown(name, position, expected):
    experiment, data, *values = CASES[name]
    claim = paper_claims()[name]
    assert experiment in claim.experiments
    found = claim.test(data(values[position]))
    assert found and len({row["setting"] for row in found}) == len(found)
    for row in found:
        assert verdict(row["low"], row["high"], claim.above, claim.below) == expected, row
        assert row["low"] <= row["ours"] <= row["high"] and row["remark"] == ""


def test_an_average_with_the_loss_of_no_solution_is_set_aside():
    better = paper_claims()["average-is-a-better-star"]
    for loss, remark in ((0.01, ""), (0.2, NO_SOLUTION)):
        data = pd.concat([averaged(ONE, 5)(0.5), average_solution(loss)])
        assert [row["remark"] for row in better.test(data)] == [remark]


def test_averages_of_predictions_need_three_stars():
    test = paper_claims()["worse-calibration"].test
    found = {stars: [row["remark"] for row in test(averages("ece", stars)(0.02))] for stars in (2, 3)}
    assert found == {2: [TOO_FEW], 3: [""]}


def test_matching_is_not_judged_by_paths_beyond_chance():
    test = paper_claims()["transformer-matched"].test
    high, low = (on_paths(matched, False)(value) for value in (4.8, 0.05))  # of 0.5 nats
    assert [row["remark"] for row in test(high)] == [WORSE_THAN_GUESS]
    assert [row["remark"] for row in test(low)] == [""]  # connected, by matching


def test_an_experiment_tests_its_own_claims():
    found = claims_of("fig1_source_count", by_sources(0.5))
    assert list(found) == CLAIM_COLUMNS and not found.duplicated(["claim", "setting"]).any()
    assert list(found.claim) == ["regular-not-connected", "star-near-heldouts", "stars-below-regular",
                                 "falls-with-sources", "still-falling"]
    assert claims_of("no_such_experiment", by_sources(0.5)).empty
    for experiment, data, *_ in CASES.values():  # a table of headings alone
        assert claims_of(experiment, data(1).head(0)).empty


def test_labels_may_be_numbers():
    data = pd.concat([barriers(0.5, 0.2, 4), barriers(0.1, 0.03, 8)])
    found = claims_of("appendix_relationship", data.assign(series="width"))
    assert "4 to 8, regular-regular" in set(found.setting)


def verdicts(frame, claim="stars-below-regular", experiment="table1_barriers"):
    found = claims_of(experiment, frame)
    own = found[found.claim == claim].set_index("setting")
    return own.verdict.to_dict(), own.remark.to_dict()


def test_a_single_pair_shows_nothing():
    data = pd.concat([rows(kind, value, n_source=10).head(1)
                      for kind, value in (("regular-regular", 0.5), ("star-heldout", 0.1))])
    assert verdicts(data) == ({"A": "not shown"}, {"A": TOO_FEW})


def test_a_verdict_needs_three_models_of_a_kind():
    "Two fused stars below the ensemble say little: both are on one side by chance half of the time."
    three = fused("ensemble")(-1)
    for count, expected in ((2, ("not shown", TOO_FEW)), (3, ("holds", ""))):
        stars = three[three.method == "fused star"].head(count)
        data = pd.concat([stars, three[three.method == "ensemble"]])
        found, remarks = verdicts(data, "fused-below-ensemble", "table2_fusion")
        assert (found["A"], remarks["A"]) == expected


def test_one_star_with_many_heldouts_has_an_interval():
    data = barriers(0.5, 0.1)
    data = data[~data.model_a.isin(["star-n10-s1", "star-n10-s2"])]
    assert verdicts(data) == ({"A": "holds"}, {"A": ""})


def test_settings_that_cannot_tell_are_set_aside():
    "Just below and just above the bounds; the barrier and the loss count together."
    chance = chance_loss("digits")
    loss = losses(["heldout-0", "heldout-1"], 0.5)
    data = pd.concat([
        barriers(0.049, 0.001, "connected"), barriers(0.051, 0.001, "hardly"),
        barriers(chance * 1.01, 0.5, "beyond"), barriers(chance * 0.98, 0.5, "below"),
        barriers(chance - 0.3, 0.5, "with its loss"), loss.assign(setting="with its loss"),
        barriers(chance * 1.01, 0.5, "unknown data", dataset="mine")])
    found, remarks = verdicts(data)
    assert remarks == {"connected": CONNECTED, "hardly": "", "beyond": WORSE_THAN_GUESS, "below": "",
                       "with its loss": WORSE_THAN_GUESS, "unknown data": ""}
    aside = {name: found[name] for name in remarks if remarks[name]}
    assert set(aside.values()) == {"not shown"}
    assert {found[name] for name in remarks if not remarks[name]} == {"holds"}


def test_heights_beyond_chance_are_heights():
    "What stars mend cannot be said there, but that there is a barrier can."
    data = barriers(5, 4)
    for claim in ("regular-not-connected", "star-near-heldouts"):
        assert verdicts(data, claim)[1] == {"A": ""}
    assert verdicts(barriers(0.01, 0.01), "star-near-heldouts")[1] == {"A": CONNECTED}
    assert verdicts(barriers(0.01, 0.01), "regular-not-connected")[0] == {"A": "fails"}


def test_only_matched_pairs_and_the_most_sources_count():
    matched = barriers(0.5, 0.1).assign(matching="forward")
    others = [barriers(0.1, 0.5).assign(matching=name) for name in ("none", "random-0")]
    fewer = rows("star-heldout", 0.9, n_source=2, matching="forward")
    assert verdicts(pd.concat([matched, *others, fewer]))[0] == {"A": "holds"}


def test_data_without_the_column_have_no_series():
    found = claims_of("fig2_width_depth", widths(0.3).drop(columns="series"))
    assert "falls-with-width" not in set(found.claim) and "stars-below-regular" in set(found.claim)


def test_a_change_begins_with_the_first_network_that_is_not_connected():
    data = pd.concat([barriers(0.02, 0.02, "shallowest", series="depth"), depths(0.5)])
    found = claims_of("fig2_width_depth", pd.concat([data, widths(0.3)]))
    own = found[found.claim == "depth-changes-less"]
    assert own.setting.str.startswith("depth 0 to depth 1 beside width 0 to width 2").all()
    assert len(own) == 2 and (own.remark == "").all()


def test_a_network_may_be_in_both_series():
    shared = barriers(0.5, 0.2, "shared", series="width and depth")
    data = pd.concat([shared, series("width", (0.1, 0.03)), series("depth", (0.8, 0.3))])
    found = claims_of("fig2_width_depth", data)
    named = set(found.setting[found.claim == "falls-with-width"])
    assert named == {f"shared to width 0, {kind}" for kind in ("regular-regular", "star-heldout")}
    assert "shared" in set(found.setting[found.claim == "below-at-any-depth"])


def test_networks_beyond_chance_leave_a_series():
    data = pd.concat([barriers(3, 2, "thinnest", series="width"), widths(0.3)])
    found = claims_of("fig2_width_depth", data)
    assert not found.setting[found.claim == "third-of-regular"].str.contains("thinnest").any()
    assert found.setting[found.claim == "falls-with-width"].str.startswith("width 0 to width 2").all()


def test_three_heldouts_have_nothing_to_be_compared_with():
    assert claims_of("appendix_heldouts", many_heldouts(1, 3)).empty
    assert len(claims_of("appendix_heldouts", many_heldouts(1, 4))) == 2


def save(out, experiment, data):
    return save_claims(SimpleNamespace(name=experiment, out=out), data)


def test_claims_are_saved_as_they_are_shown(tmp_path):
    data = pd.concat([ratio(0.5), ratio(1.5, setting="B, \"quoted\" | <b>"), barriers(0.01, 0.01, "NA")])
    shown = save(tmp_path, "table1_barriers", data)
    path = tmp_path / "claims/table1_barriers.csv"
    contents = path.read_bytes()
    header = contents.decode().splitlines()[0]
    assert header.split(",")[:7] == ["claim", "setting", "ours", "low", "high", "paper", "verdict"]
    assert list(shown) == ["claim", "setting", "ours", "paper", "verdict"]
    saved = read_claims(tmp_path)
    assert list(saved.setting) == list(shown.setting) and "NA" in set(saved.setting)
    pd.testing.assert_frame_equal(saved[CLAIM_COLUMNS], claims_of("table1_barriers", data), rtol=1e-6,
                                  check_dtype=False)
    save(tmp_path, "table1_barriers", data)
    assert path.read_bytes() == contents and b"\r" not in contents
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_experiment_without_claims_has_a_file_without_rows(tmp_path):
    assert save(tmp_path, "appendix_warmup", ratio(0.5)) is None
    assert (tmp_path / "claims/appendix_warmup.csv").read_text() == ",".join(CLAIM_COLUMNS) + "\n"
    assert report_claims(tmp_path).empty


@pytest.mark.parametrize("contents", [
    b"", b"claim,setting\n", b"\xff\xfe", ",".join(CLAIM_COLUMNS).encode() + b"\na,b,c,d,e,f,g,\n"])
def test_a_damaged_file_of_claims_is_one_error_that_names_it(contents, tmp_path, capsys):
    save(tmp_path, "table1_barriers", ratio(0.5))
    damaged = tmp_path / "claims/fig3_paths.csv"
    damaged.write_bytes(contents)
    assert cli.main(["compare", str(tmp_path), str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"starlight: claims: {damaged} cannot be read: ")
    assert error.endswith("; remove it, or make it anew\n")
    damaged.unlink()
    (tmp_path / "claims_again.csv").write_bytes(contents[:4])
    with pytest.raises(ValueError, match="claims_again.csv cannot be read"):
        standing_claims(tmp_path, report_claims(tmp_path))


def test_a_notebook_shows_claims_whole(tmp_path):
    "Texts that pandas would cut after fifty characters."
    shown = save(tmp_path, "table1_barriers", ratio(0.5))
    text = paper_claims()["stars-below-regular"].text
    assert len(text) > 50 and text in shown._repr_html_()
    assert text not in pd.DataFrame(shown)._repr_html_()


def test_one_row_a_claim_counts_settings(tmp_path):
    data = pd.concat([ratio(0.5), ratio(0.6, setting="B"), ratio(1, setting="C"),
                      barriers(0.01, 0.01, "D"), barriers(5, 1, "E")])
    save(tmp_path, "table1_barriers", data)
    merged = report_claims(tmp_path).set_index("id")
    row = merged.loc["stars-below-regular"]
    assert list(row[list(VERDICTS)]) == [2, 1, 0] and row.verdict == "not shown"
    assert row.ours.startswith("0.") and row.ours.endswith("times")
    assert row.settings == ("of 3: holds in 2, not shown in 1; not counted, connected anyway: 1 (D); "
                            "not counted, worse than a guess: 1 (E)")
    assert merged.verdict["regular-not-connected"] == "holds", "one setting is enough"
    assert merged.fails["regular-not-connected"] == 1
    assert set(merged.index) == {"regular-not-connected", "star-near-heldouts", "stars-below-regular"}


def test_one_failure_refutes_and_is_named(tmp_path):
    save(tmp_path, "table1_barriers", pd.concat([ratio(0.5), ratio(1.5, setting="B")]))
    row = report_claims(tmp_path).set_index("id").loc["stars-below-regular"]
    assert row.verdict == "fails" and row.settings == "of 2: holds in 1, fails in 1 (B)"


def test_where_no_setting_can_tell_nothing_is_shown(tmp_path):
    save(tmp_path, "table1_barriers", barriers(0.01, 0.001))
    row = report_claims(tmp_path).set_index("id").loc["stars-below-regular"]
    assert row.verdict == "not shown" and list(row[list(VERDICTS)]) == [0, 0, 0]
    assert row.settings == "not counted, connected anyway: 1 (A)"


def test_the_papers_own_experiment_counts_first(tmp_path):
    save(tmp_path, "fig1_source_count", pd.concat([ratio(1.5), ratio(0.5, setting="B")]))
    save(tmp_path, "table1_barriers", ratio(0.5))
    row = report_claims(tmp_path).set_index("id").loc["stars-below-regular"]
    assert row.verdict == "holds" and row.holds == 2
    assert row.experiments == ["table1_barriers", "fig1_source_count"]


def test_a_setting_counts_where_it_can_tell(tmp_path):
    "Table 1 has two stars of A, and Fig. 1 has three."
    few = solution(0.01)
    save(tmp_path, "table1_barriers", few[few.model_a != "star-n10-s2"])
    save(tmp_path, "fig1_source_count", solution(0.01))
    row = report_claims(tmp_path).set_index("id").loc["star-is-a-solution"]
    assert row.verdict == "holds" and row.experiments == ["fig1_source_count"]


def test_verdicts_that_another_run_does_not_repeat_are_not_shown(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    save(here, "table1_barriers", ratio(0.5))
    save(here, "fig1_source_count", fall_by_sources(0.5))
    save(there, "table1_barriers", ratio(1.0))
    merged = report_claims(here)
    assert standing_claims(here, merged) is merged
    keep_verdicts(here, there)
    standing = standing_claims(here, merged).set_index("id")
    assert list(standing.index) == list(merged.id)
    changed = standing.loc["stars-below-regular"]
    assert changed.verdict == "not shown" and changed.settings.startswith("here holds, for A")
    assert "with other seeds not shown: 1.00 [" in changed.settings
    only_here = standing.loc["falls-with-sources"]
    assert only_here.verdict == "holds" and "other seeds" not in only_here.settings


def test_claims_of_another_version_are_passed_over(tmp_path):
    save(tmp_path, "table1_barriers", ratio(0.5))
    path = tmp_path / "claims/table1_barriers.csv"
    path.write_text(path.read_text().replace("stars-below-regular", "no-such-claim"))
    assert "stars-below-regular" not in set(report_claims(tmp_path).id)


def test_claims_are_described():
    for name, claim in paper_claims().items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", name) and claim.text.endswith(".")
        assert set(claim.experiments) <= set(experiment_names())
        assert claim.where and claim.paper and not re.search("nan|inf", claim.paper + claim.bounds)
        assert claim.above < claim.below


def test_published_values_are_looked_up():
    resnet = published("table1_barriers", dataset="CIFAR-10", architecture="ResNet-18", optimizer="SGD",
                       split="train", metric="loss_barrier").set_index("pair")["mean"]
    claims = paper_claims()
    assert f"{resnet['regular-regular']:.3f}" in claims["regular-not-connected"].paper
    assert f"{resnet['star-source']:.3f}" in claims["star-near-sources"].paper
    assert "N = 50" in claims["star-near-sources"].paper
    assert "78.4 against 77.3" in claims["fused-above-regular"].paper


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    "The claims of each committed report, made from its data."
    out = tmp_path_factory.mktemp("reports")
    for data in sorted((ROOT / "reports").glob("*/data/*.csv")):
        report = out / data.parts[-3]
        save(report, data.stem, pd.read_csv(data, low_memory=False))
    return sorted(out.iterdir())


def test_committed_reports_give_one_row_a_claim(committed):
    assert {"digits", "mnist", "agnews"} <= {out.name for out in committed}
    for out in committed:
        rows_, merged = read_claims(out), report_claims(out)
        assert not rows_.duplicated(["claim", "setting", "experiment"]).any()
        assert set(rows_.verdict) <= set(VERDICTS)
        assert list(merged.id) == [name for name in paper_claims() if name in set(rows_.claim)]
        assert merged.verdict.isin(VERDICTS).all() and (merged.ours != "").all()
        shuffled = merge_claims(rows_.sample(frac=1, random_state=0))  # names come in another order
        pd.testing.assert_frame_equal(merged.drop(columns=["settings", "experiments"]),
                                      shuffled.drop(columns=["settings", "experiments"]))


def test_the_report_of_everything_tests_every_claim(committed):
    digits, = (out for out in committed if out.name == "digits")
    of_paper = [name for name, claim in paper_claims().items() if claim.where != BEYOND["where"]]
    assert list(report_claims(digits).id) == of_paper


def test_saved_verdicts_follow_from_saved_intervals(committed):
    for out in committed:
        for row in read_claims(out).itertuples():
            claim = paper_claims()[row.claim]
            expected = verdict(row.low, row.high, claim.above, claim.below)
            assert row.verdict == ("not shown" if row.remark else expected)


def test_labels_that_look_like_something_else_stay_as_they_are(tmp_path):
    experiment = SimpleNamespace(name="fig3_paths", out=tmp_path)
    for label in ("NA", "1.50", "4"):
        saved = save_data(experiment, ratio(0.5, setting=label))
        assert set(saved.setting) == {label}
        assert set(claims_of("fig3_paths", saved).setting) == {label}


def test_a_report_is_no_second_run_of_itself(tmp_path, capsys):
    save(tmp_path, "table1_barriers", ratio(0.5))
    (tmp_path / "evidence.json").write_text('{"profile_digest": "x"}')
    for words in ([], ["--keep"]):
        assert cli.main(["compare", str(tmp_path), f"{tmp_path}/.", *words]) == 2
        assert f"other: {tmp_path} is the report itself; another report is needed" in capsys.readouterr().err
    assert not (tmp_path / "claims_again.csv").exists()


def test_a_copy_of_a_report_is_no_second_run_either(tmp_path, capsys):
    report, copied = tmp_path / "report", tmp_path / "copied"
    save(report, "table1_barriers", ratio(0.5))
    (report / "evidence.json").write_text('{"profile_digest": "x"}')
    shutil.copytree(report, copied)
    assert cli.main(["compare", str(report), str(copied), "--keep"]) == 2
    assert f"other: {copied} has the seeds of {report}" in capsys.readouterr().err
    assert cli.main(["compare", str(report), str(copied)]) == 0
    told, empty, head, *_ = capsys.readouterr().out.splitlines()
    assert told == "not one run and its repetition: the same seeds in all experiments"
    assert not empty and head.startswith("| claim")
    assert not (report / "claims_again.csv").exists()
