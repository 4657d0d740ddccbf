"""Variations: lines over networks with intervals over models, subsets of held-out solutions, finer
paths, other draws of t."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import make_study, measured_paths
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from starlight_nb.paper.housekeeping import stored
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.members import regular_pairs
from starlight_nb.paper.plans import plan_of
from starlight_nb.paper.profiles import load_profile
from starlight_nb.paper.study import COLUMNS
from starlight_nb.paper.tables import barrier_table
from starlight_nb.statistics import bootstrap_mean
from starlight_nb.paper.trends import (
    among_heldouts, compare_fit, compare_samplings, heldout_table, network_widths, points_table,
    sampling_name, sampling_table)
from starlight_nb.statistics import Line, barrier_points, fit_line, power_law

FIG2 = dict(widths=["mlp"], depths=["mlp"], sources=2, stars=1, heldouts=2, points=3)
TABLE1 = dict(
    settings=["mlp"], others=["resnet"], sources=1, stars=1, heldouts=2, orders=1, points=3
)


def network(name, regular, star, models=5, spread=0.0, seed=0):
    """One network's tidy barriers: a pair's is the mean of its models' numbers, spread around
    `regular`; those of the star are spread by the same numbers."""
    own = spread * np.random.default_rng(seed).normal(size=models)
    about = dict(setting=name, split="train", metric="loss_barrier", t=None)
    rows = [
        dict(
            about,
            n_source=None,
            pair="regular-regular",
            model_a=f"heldout-{i}",
            model_b=f"heldout-{j}",
            value=regular + (own[i] + own[j]) / 2,
        )
        for i in range(models)
        for j in range(i + 1, models)
    ]
    return pd.DataFrame(
        rows
        + [
            dict(
                about,
                n_source=2,
                pair="star-heldout",
                model_a="star-n2-s0",
                model_b=f"heldout-{i}",
                value=star + own[i],
            )
            for i in range(models)
        ]
    )


def networks(regular, star, **options):
    return pd.concat(
        [
            network(f"network {n}", x, y, seed=n, **options)
            for n, (x, y) in enumerate(zip(regular, star))
        ],
        ignore_index=True,
    )


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0.01, 5), min_size=2, max_size=5, unique=True),
    st.floats(-2, 2),
    st.floats(-1, 1),
)
def test_a_line_without_spread_is_found_exactly(x, slope, intercept):
    assume(max(x) - min(x) >= 1e-3)
    line = fit_line(networks(x, slope * np.array(x) + intercept), resamples=50)
    assert line.slope == pytest.approx(slope, abs=1e-6)
    assert line.intercept == pytest.approx(intercept, abs=1e-6)
    assert line.slopes == pytest.approx(line.slope, abs=1e-6), (
        "without spread every resample has the same line"
    )
    assert line.at(x)["mean"].to_numpy() == pytest.approx(slope * np.array(x) + intercept, abs=1e-6)


def test_the_line_is_that_of_numpy_and_the_proportion_that_of_least_squares():
    frame = networks([0.2, 0.5, 1.0], [0.1, 0.1, 0.5], spread=0.1)
    points = barrier_points(frame)
    line = fit_line(frame)
    assert (line.slope, line.intercept) == pytest.approx(
        tuple(np.polyfit(points.regular, points.star, 1))
    )
    proportion = fit_line(frame, through_zero=True)
    assert proportion.slope == pytest.approx(
        np.linalg.lstsq(points.regular.to_numpy()[:, None], points.star, rcond=None)[0].item()
    )
    assert proportion.intercept == 0
    assert not proportion.intercepts.any()
    assert "plus" not in str(proportion)
    assert "plus" in str(line)


def test_points_are_the_means_with_their_intervals():
    frame = networks([0.2, 0.5], [0.1, 0.3], spread=0.1)
    points = barrier_points(frame).set_index("setting")
    own = frame[(frame.setting == "network 1") & (frame["pair"] == "regular-regular")]
    assert points.regular["network 1"] == pytest.approx(own.value.mean())
    assert points.regular_sd["network 1"] == pytest.approx(own.value.std())
    assert (points.regular_low["network 1"], points.regular_high["network 1"]) == bootstrap_mean(
        own
    )
    assert list(points.regular_n) == [10, 10] and list(points.star_n) == [5, 5]


def test_the_interval_covers_the_slope_that_was_planted():
    "Eight models a network; of 95 in 100 that are promised at least 80 are asked for."
    x = np.array([0.5, 1.0, 1.5, 2.0])
    found = [
        fit_line(
            pd.concat(
                [
                    network(f"{n}", a, 0.3 * a, models=8, spread=0.2, seed=100 * trial + n)
                    for n, a in enumerate(x)
                ]
            ),
            resamples=200,
        ).interval()
        for trial in range(40)
    ]
    assert np.mean([low <= 0.3 <= high for low, high in found]) >= 0.8
    assert np.mean([high - low for low, high in found]) < 0.3


def test_networks_are_resampled_independently_and_the_same_every_time():
    frame = networks([1.0, 1.5], [0.3, 0.5], spread=0.2)
    one, other = fit_line(frame), fit_line(frame)
    assert np.array_equal(one.slopes, other.slopes)
    assert not np.array_equal(one.slopes, fit_line(frame, seed=1).slopes)
    twins = pd.concat([network("a", 1.0, 0.3, spread=0.2), network("b", 2.0, 0.6, spread=0.2)])
    assert np.std(fit_line(twins).slopes) > 0.01, (
        "with the same draws for both, shifts of one would be shifts of the other"
    )


def test_the_band_holds_the_line_and_is_narrow_where_the_points_are():
    frame = networks([0.4, 0.5, 0.6], [0.2, 0.25, 0.3], spread=0.05)
    band = fit_line(frame).at([0, 0.5, 5])
    assert (band.low <= band["mean"]).all() and (band["mean"] <= band.high).all()
    width = band.high - band.low
    assert width[1] < width[0] and width[1] < width[2]


def test_matchings_other_than_the_forward_one_do_not_count():
    frame = networks([0.2, 0.5], [0.1, 0.3]).assign(matching="forward")
    assert fit_line(
        pd.concat([frame, frame.assign(matching="none", value=9.0)])
    ).slope == pytest.approx(fit_line(frame).slope)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fit_line(network("a", 1.0, 0.5)), "frame: a line needs two settings .*, not 1"),
        (
            lambda: fit_line(networks([1.0, 1.0], [0.5, 0.6])),
            "frame: the regular-regular barrier of every setting is 1",
        ),
        (
            lambda: fit_line(networks([1.0, 2.0], [0.5, 0.6]).query("pair == 'star-heldout'")),
            "frame: a line needs two settings .*, not 0",
        ),
        (
            lambda: fit_line(networks([1.0, 2.0], [0.5, 0.6]), split="test"),
            "frame: a line needs two settings .*, not 0",
        ),
        (
            lambda: power_law([1], [1]),
            "size: at least two sizes are needed, and a barrier for each, not 1 and 1",
        ),
        (lambda: power_law([1, 2], [1]), "size: at least two sizes .*, not 2 and 1"),
        (lambda: power_law([0, 1], [1, 1]), "size: values above 0 are needed, not 0"),
        (lambda: power_law([1, 2], [0.5, -1]), "barrier: values above 0 are needed, not -1"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.01, 10))
def test_a_power_is_found(exponent, factor):
    width = np.array([4, 8, 12, 16])
    assert power_law(width, factor * width**exponent) == pytest.approx((exponent, factor))


def test_a_fit_stands_beside_the_paper_s():
    line = Line(0.5, 0.1, np.linspace(0.4, 0.6, 101), np.linspace(0.05, 0.15, 101))
    assert list(compare_fit("widths", line, {"slope": 0.31, "intercept": 0.1}).verdict) == [
        "above",
        "within our interval",
    ]
    assert list(
        compare_fit("widths", Line(0.5, 0.0, line.slopes, np.zeros(101)), {"slope": 0.9}).verdict
    ) == ["below"]


def test_subsets_of_heldouts_are_parts():
    frame = networks([1.0], [0.5], spread=0.3)
    few = among_heldouts(frame, 3)
    assert len(few[few["pair"] == "regular-regular"]) == 3
    assert len(few[few["pair"] == "star-heldout"]) == 3
    assert len(among_heldouts(frame, 5)) == len(frame) and len(among_heldouts(frame, 1)) == 1
    table = heldout_table(frame, [3, 5]).set_index(["pair", "heldouts"])
    own = few[few["pair"] == "regular-regular"].value
    assert tuple(table.loc[("regular-regular", 3), ["n", "mean", "min", "max"]]) == pytest.approx(
        (3, own.mean(), own.min(), own.max())
    )
    assert table.loc[("star-heldout", 5), "max"] >= table.loc[("star-heldout", 3), "max"]


def test_held_outs_are_told_from_others_by_their_number():
    rows = pd.DataFrame(
        [
            dict(model_a="heldout-10", model_b=None),
            dict(model_a="star-n2-s0", model_b="source-12"),
            dict(model_a="heldout-1", model_b=None),
        ]
    )
    assert list(among_heldouts(rows, 2).index) == [1, 2]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    setting = load_profile("smoke").settings["mlp"]
    return make_study(setting, tmp_path_factory.mktemp("store"), points=3)


def plan(name, study, **parameters):
    "The plan of an experiment with stars of two sources and two held-out solutions."
    about = dict(studies=[study], sources=2, stars=1, heldouts=2)
    return plan_of(SimpleNamespace(name=name, **about | parameters))


def test_finer_paths_find_no_lower_barriers_and_train_nothing(study, monkeypatch):
    plan("appendix_relationship", study).rows()
    monkeypatch.setattr("starlight_nb.paper.study.train_stacked", None)
    monkeypatch.setattr("starlight_nb.paper.study.train_star", None)
    frame = plan("appendix_points", study, point_counts=[3, 5]).rows()
    assert set(frame.points.dropna()) == {3, 5}
    barriers = frame[frame.metric == "loss_barrier"].pivot_table(
        index=["pair", "model_a", "model_b", "split"], columns="points", values="value"
    )
    assert len(barriers) == 3 * 2 and (barriers[5] >= barriers[3] - 1e-9).all(), (
        "the points of the coarse grid are among those of the fine one"
    )
    assert (points_table(frame).set_index("points").change[3] == 0).all()


def test_stars_of_every_draw_of_t_are_measured(study):
    frame = plan("appendix_t_sampling", study, t_sampling=["uniform", "beta", 0.5]).rows()
    stars = frame[frame["pair"] == "star-heldout"]
    assert list(stars.t_sampling.unique()) == ["uniform", "Beta(2,2)", "constant 0.5"]
    assert frame[frame["pair"] == "regular-regular"].t_sampling.isna().all()
    losses = (
        stars[
            (stars.t == 0)
            & (stars.metric == "loss")
            & (stars.split == "train")
            & (stars.model_b == "heldout-0")
        ]
        .set_index("t_sampling")
        .value
    )
    assert losses.nunique() == 3, "they are different stars"
    single = frame[
        (frame["pair"] == "single") & (frame.metric == "loss") & (frame.split == "train")
    ]
    assert sorted(single.model_a.where(single.t_sampling.isna(), "star")) == [
        "heldout-0", "heldout-1", "star", "star", "star",
    ]
    assert single.set_index("t_sampling").value["uniform"] == losses["uniform"]
    table = sampling_table(frame)
    assert list(table.t_sampling) == ["uniform", "Beta(2,2)", "constant 0.5"]
    assert table["star loss, train"][0] == f"{losses['uniform']:.3f}"
    assert sampling_name("adaptive") == "adaptive" and sampling_name(0.25) == "constant 0.25"


def test_samplings_stand_beside_the_paper_s(study):
    frame = plan("appendix_t_sampling", study, t_sampling=["uniform", "beta", 0.25]).rows()
    beside = compare_samplings(frame, pd.Series({"uniform": 0.084, "Beta(2,2)": 0.069}))
    rows = (
        frame[(frame.metric == "loss_barrier") & (frame.split == "train")]
        .groupby("t_sampling")
        .value.mean()
    )
    assert beside.quantity.item() == "star-heldout, t Beta(2,2) / uniform", (
        "the paper has no constant 0.25"
    )
    assert beside.ours.item().startswith(f"{rows['Beta(2,2)'] / rows['uniform']:.2f} [")
    assert beside.paper.item().startswith("0.82, ")
    assert not len(
        compare_samplings(
            frame[frame.t_sampling != "uniform"], pd.Series({"uniform": 0.084, "Beta(2,2)": 0.069})
        )
    )


def test_uniform_stars_are_those_of_other_experiments(tmp_path):
    study = make_study(load_profile("smoke").settings["mlp"], tmp_path, points=3)
    study.state(study.stars([2], 1)[0][2])
    measured_paths(study, regular_pairs(study.members("heldout", 2)))
    before = {entry.key for entry in stored(tmp_path)}
    plan("appendix_t_sampling", study, t_sampling=["uniform"]).rows()
    new = [entry.config["kind"] for entry in stored(tmp_path) if entry.key not in before]
    assert new == ["path", "path"], "from the star to each held-out solution, and no other star"


def test_other_settings_have_all_their_own_models_and_one_star(tmp_path, monkeypatch):
    monkeypatch.setenv("STARLIGHT_STORE", str(tmp_path))
    experiment = Experiment("table1_barriers", "smoke", **TABLE1)
    frame = plan_of(experiment).rows()
    assert list(frame.columns) == [*COLUMNS, "matching"]
    pairs = (
        frame[(frame.metric == "loss_barrier") & (frame.split == "train")]
        .groupby(["setting", "pair", "matching"])
        .size()
        .unstack(["pair", "matching"])
    )
    assert pairs.loc["ResNet 4"].dropna().to_dict() == {
        ("regular-regular", "none"): 3,
        ("regular-regular", "forward"): 3,
        ("star-heldout", "forward"): 3,
        ("star-source", "forward"): 2,
    }
    assert not (barrier_table(frame)["regular-regular, unmatched"] == "–").any()
    assert pairs.loc["MLP 3x16", ("regular-regular", "forward")] == 1
    assert frame[frame.setting == "ResNet 4"].n_source.max() == 2


def test_an_experiment_names_settings_by_several_parameters():
    experiment = Experiment(
        "fig2_width_depth", "smoke", **FIG2 | dict(widths=["mlp", "resnet"], depths=["resnet"])
    )
    assert [s.setting.name for s in experiment.studies] == ["mlp", "resnet"]
    assert experiment.named("depths") == [experiment.studies[1]]
    assert network_widths(experiment.named("widths")) == {"MLP 3x16": 16, "ResNet 4": 4}


def test_draws_of_t_are_names_and_numbers_in_one_list():
    given = dict(
        settings=["mlp"],
        t_sampling=["uniform", "beta", "adaptive", 0.5, 1],
        sources=2,
        stars=1,
        heldouts=2,
        points=3,
    )
    assert len(Experiment("appendix_t_sampling", "smoke", **given).studies) == 1


@pytest.mark.parametrize(
    "name, given, message",
    [
        (
            "fig2_width_depth",
            FIG2 | dict(widths=["mpl"]),
            "widths: 'mpl' is not known; did you mean 'mlp'",
        ),
        ("fig2_width_depth", FIG2 | dict(widths=[]), "widths: at least one value is needed"),
        ("fig2_width_depth", FIG2 | dict(depths=[3]), "depths: 3 is not a name"),
        (
            "fig2_width_depth",
            FIG2 | dict(widths=["resnet"], sources=3),
            "sources: 3 are asked for, setting 'resnet'",
        ),
        (
            "table1_barriers",
            TABLE1 | dict(others=["resnte"]),
            "others: 'resnte' is not known; did you mean 'resnet'",
        ),
        (
            "appendix_heldouts",
            dict(settings=["mlp"], sources=2, stars=1, heldout_counts=[2, 9], points=3),
            "heldout_counts: 9 are asked for, setting 'mlp'",
        ),
        (
            "appendix_heldouts",
            dict(settings=["mlp"], sources=2, stars=1, heldout_counts=[1], points=3),
            "heldout_counts: a whole number of at least 2 is needed, not 1",
        ),
        (
            "appendix_points",
            dict(settings=["mlp"], sources=2, stars=1, heldouts=2, point_counts=[1]),
            "point_counts: a whole number of at least 2",
        ),
        (
            "appendix_t_sampling",
            dict(
                settings=["mlp"], t_sampling=["unifrom"], sources=2, stars=1, heldouts=2, points=3
            ),
            "t_sampling: 'unifrom' is not known; did you mean 'uniform'",
        ),
        (
            "appendix_t_sampling",
            dict(settings=["mlp"], t_sampling=[2], sources=2, stars=1, heldouts=2, points=3),
            "a constant t: a number of at least 0 and at most 1 is needed, not 2",
        ),
    ],
)
def test_wrong_parameters_are_one_clear_error(name, given, message):
    with pytest.raises(ValueError, match=message):
        Experiment(name, "smoke", **given).studies


def test_others_may_be_none_but_not_with_a_single_heldout(tmp_path):
    assert [
        s.setting.name
        for s in Experiment("table1_barriers", "smoke", **TABLE1 | dict(others=[])).studies
    ] == ["mlp"]
    from starlight_nb.runtime.settings import experiments_folder
    text = (experiments_folder() / "profiles/smoke.toml").read_text()
    start = text.index("[settings.resnet]")
    profile = tmp_path / "mine.toml"
    profile.write_text(text[:start] + text[start:].replace("heldouts = 3", "heldouts = 1", 1))
    with pytest.raises(
        ValueError, match="'resnet' has one held-out solution; two are needed"
    ):
        Experiment("table1_barriers", str(profile), **TABLE1).studies


def test_a_network_without_a_width_is_told(study):
    from dataclasses import replace
    with pytest.raises(ValueError, match="widths: setting 'mlp' does not say how wide"):
        network_widths([replace(study, setting=replace(study.setting, model={"depth": 3}))])
