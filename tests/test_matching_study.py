"""Matchings by name, partial specs, stars of both, and planes."""
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from types import SimpleNamespace

from conftest import make_study, measured_paths
from starlight_nb.barriers import Plane, plane_grid, plane_losses, plane_segments
from starlight_nb.evaluation import evaluate, interpolate, refresh_batchnorm
from starlight_nb.matching import partial_spec
from starlight_nb.paper.comparisons import (
    PLANE_COLUMNS, SPECS, PlanePart, forward_orders, gap_closed, gaps_by_order,
    matching_comparison, relative_barriers, rematch_options)
from starlight_nb.models import build, initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.paper.members import Pair, star_member, star_pairs
from starlight_nb.paper.profiles import load_profile
from starlight_nb.paper.parts import Plan
from starlight_nb.paper.plans import plan_of
from starlight_nb.paper.study import pair_permutation, star_tensors, with_recipe
from starlight_nb.statistics import bootstrap_function
from starlight_nb.training import state_of


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "Residual networks, hardly trained: nothing here depends on how good they are."
    setting = load_profile("smoke").settings["resnet"]
    return make_study(setting, tmp_path_factory.mktemp("store"), points=3)


# what the library of the released code permuted, by the layers whose outputs it left as they are
@pytest.mark.parametrize(
    "name, options, left_out, groups",
    [
        ("mlp", dict(depth=1), [], 1),
        ("vgg11", dict(width=4), [], 10),
        ("wideresnet", dict(depth=22), [], 12),
        ("resnet18", dict(width=4), ["blocks.6.conv2"], 12),
        ("torchvision.resnet18", {}, ["conv1", "layer4.0.conv2"], 12),
        ("densenet40", dict(depth=10), None, 9),
    ],
)
def test_a_partial_spec_holds_still_what_the_released_code_did(name, options, left_out, groups):
    channels = 1 if name == "mlp" else 3
    shape = (2, channels, 8, 8) if name == "mlp" else (2, channels, 32, 32)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = initialise(partial(build, name, **options), 0).double().eval()
    spec = infer_spec(model, x.double())
    some, state = partial_spec(spec, model, x.double()), state_of(model)
    assert len(spec.groups) == groups
    assert sorted(set(spec.groups) - set(some.groups)) == (
        sorted(spec.groups) if left_out is None else left_out
    )
    moved = permute(some, some.random(torch.Generator().manual_seed(1)), state)
    with torch.no_grad():
        before = model(x.double())
        model.load_state_dict(moved)
        torch.testing.assert_close(model(x.double()), before)
    changed = {tensor for tensor in state if not torch.equal(moved[tensor], state[tensor])}
    assert bool(changed) == bool(some.groups) and changed <= set(some.axes)


def test_a_partial_star_moves_its_sources_in_the_matched_groups_alone(study):
    plain, some = (study.stars([2], 1, **options)[0][2] for options in ({}, dict(groups="partial")))
    assert plain.config["options"] == {}
    assert plain.key != some.key
    assert some.name == "star-n2-groups=partial-s0"
    groups = lambda star: {
        name.split("/")[2]
        for name in star_tensors(study.models, star)
        if name.startswith("permutation/")
    }
    frozen = groups(plain) - groups(some)
    assert groups(some) < groups(plain) and frozen == set(study.models.spec().groups) - groups(some)
    for matching in ("partial", "partial-random-3"):
        for other in (study.members("heldout", 1)[0], some.sources[1]):
            found = pair_permutation(
                study.models,
                Pair("star-heldout", some, other, matching),
                study.state(some),
                study.state(other),
            )
            assert found.keys() == study.models.spec().groups.keys()
            assert all(torch.equal(found[group], study.models.spec().identity()[group]) for group in frozen)
    crossed = measured_paths(study, 
        star_pairs([(2, 0, some)], [], 2) + star_pairs([(2, 0, plain)], [], 2, "partial")
    )
    assert crossed.value.notna().all(), (
        "a star's sources can be matched otherwise than it was trained"
    )


@pytest.mark.parametrize(
    "name",
    [
        "backward", "random", "random-x", "random--1", "forward-3", "none-1", "partial-none",
        "partial-activations", "partial-forward", "partial-", "partialforward", "",
    ],
)
def test_a_matching_that_is_none_is_refused(study, name):
    a, b = study.members("heldout", 2)
    with pytest.raises(ValueError, match="^matching: '"):
        Pair("regular-regular", a, b, name)


def test_a_star_of_unknown_groups_is_refused(study):
    with pytest.raises(ValueError, match="groups: 'partly' is not known"):
        star_member(study.setting, 2, 0, groups="partly")


def test_every_matching_gives_a_permutation_and_random_ones_differ(study):
    a, b = study.members("heldout", 2)
    names = [
        "none", "forward", "random-0", "random-1", "activations", "sinkhorn", "partial",
        "partial-random-0",
    ]
    found = {
        name: pair_permutation(
            study.models,
            Pair("regular-regular", a, b, name),
            study.state(a),
            study.state(b),
        )
        for name in names
    }
    assert all(permutation.keys() == study.models.spec().groups.keys() for permutation in found.values())
    orders = {
        name: torch.cat([permutation[group] for group in study.models.spec().groups]).tolist()
        for name, permutation in found.items()
    }
    # the last may find what the partial one in forward order does
    for one, other in combinations(names[:-1], 2):
        assert orders[one] != orders[other], f"{one} and {other}"


def test_another_recipe_makes_other_models_with_other_names(study):
    other = with_recipe(study, "warmup", recipe=dict(warmup_epochs=1), star_recipe=dict(warmup_epochs=1))
    assert (other.setting.recipe.warmup_epochs, other.setting.star_recipe.warmup_epochs) == (1, 1)
    assert study.setting.recipe.warmup_epochs == 0
    assert other.setting.star_recipe.epochs == study.setting.star_recipe.epochs
    assert other.setting.label == study.setting.label
    ours, theirs = study.members("heldout", 2), other.members("heldout", 2)
    assert [m.name for m in theirs] == ["heldout-warmup-0", "heldout-warmup-1"]
    assert not {m.key for m in ours} & {m.key for m in theirs}
    assert star_member(other.setting, 2, 0).name == "star-warmup-n2-s0"
    assert with_recipe(study, "").members("heldout", 2) == ours
    frame = measured_paths(study, [Pair("regular-regular", ours[0], theirs[1])])
    start = evaluate(study.models.network(), study.state(ours[0]), study.models.data.train)[0]
    end = evaluate(study.models.network(), other.state(theirs[1]), study.models.data.train)[0]
    assert frame[
        (frame.metric == "loss") & (frame.split == "train") & frame.t.isin([0, 1])
    ].value.tolist() == [start, end]


def test_three_specs_are_measured_once(study, monkeypatch):
    plan = plan_of(SimpleNamespace(
        name="appendix_partial", studies=[study], sources=2, stars=1, heldouts=3, orders=2))
    frame = plan.rows()
    barriers = frame[(frame.metric == "loss_barrier") & (frame.split == "train")]
    counts = barriers.groupby(["spec", "pair"]).size()
    assert {
        spec: tuple(counts[spec, pair] for pair in ("regular-regular", "star-heldout"))
        for spec in SPECS
    } == {"unmatched": (3, 3), "partial": (9, 9), "complete": (9, 9)}
    single = frame[frame.pair == "single"]
    assert single[single.model_a.str.startswith("heldout")].spec.isna().all()
    stars = single[single.model_a.str.startswith("star")].groupby("spec").model_a.unique()
    assert {spec: names.tolist() for spec, names in stars.items()} == {
        "unmatched": ["star-n2-rematch_every=None-s0"],
        "partial": ["star-n2-groups=partial-s0"],
        "complete": ["star-n2-s0"],
    }
    table = matching_comparison(forward_orders(frame), "spec").set_index("spec")
    assert list(table.index) == list(SPECS)
    assert table["regular loss"].nunique() == 1
    assert table["star loss"].nunique() == 3
    monkeypatch.setattr("starlight_nb.paper.study.train_star", None)
    monkeypatch.setattr("starlight_nb.paper.study.path_losses", None)
    pd.testing.assert_frame_equal(frame, plan.rows())


def barriers(heights, by, pair="regular-regular"):
    """Barriers of all pairs of four models: the height of each value times what the pair's models
    add."""
    return pd.DataFrame(
        [
            dict(
                setting="s",
                pair=pair,
                metric="loss_barrier",
                split="train",
                model_a=f"a-{i}",
                model_b=f"heldout-{j}",
                value=height * (1 + i + j),
            )
            | {by: level}
            for level, height in heights.items()
            for i in range(3)
            for j in range(4)
        ]
    )


def test_comparisons_on_the_same_pairs_are_exact():
    frame = pd.concat(
        [
            barriers({"one": 1.0, "other": 0.25}, "how"),
            barriers({"one": 0.5, "other": 0.5}, "how", "star-heldout"),
        ]
    )
    ratios = relative_barriers(frame, "how", "one").set_index("pair")
    assert np.allclose(ratios.loc["regular-regular", ["ratio", "low", "high"]].astype(float), 0.25)
    assert np.allclose(ratios.loc["star-heldout", ["ratio", "low", "high"]].astype(float), 1)
    single = pd.DataFrame(
        [
            dict(
                setting="s",
                pair="single",
                metric="loss",
                split="train",
                model_a=name,
                how=None,
                value=0.5,
            )
            for name in ("star-n1-s0", "heldout-0")
        ]
    )
    across = pd.concat(
        [
            barriers({None: 2.0}, "how"),
            barriers({"one": 1.0, "other": 0.5}, "how", "star-heldout"),
            single,
        ]
    )
    table = matching_comparison(across, "how").set_index("how")
    assert table["star-heldout / regular-regular"].to_dict() == {
        "one": "0.50 [0.50, 0.50]",
        "other": "0.25 [0.25, 0.25]",
    }
    assert table["regular-regular"].nunique() == 1
    assert "star-source" not in table
    assert set(table["star loss"]) == {"0.500"}


@pytest.mark.parametrize(
    "complete, star, share", [(1.0, 0.5, 2 / 3), (1.8, 1.0, 0.2), (0.4, 0.5, 1.6 / 1.5)]
)
def test_the_share_of_the_gap_is_what_it_says(complete, star, share):
    frame = pd.concat(
        [
            barriers({"none": 3.0, "partial": 2.0, "forward": complete}, "matching"),
            barriers(
                {"none": 2.5, "partial": star, "forward": star / 2}, "matching", "star-heldout"
            ),
        ]
    )
    gaps = gap_closed(frame).loc["s"]
    assert np.allclose(gaps.loc["share"].astype(float), share)
    height = np.mean([1 + i + j for i in range(3) for j in range(4)])  # of every pair
    for quantity, value in {"gap, partial": 2.0 - star, "gap, complete": complete - star / 2}.items():
        found = gaps.loc[quantity]
        assert np.isclose(found["value"], height * value)
        assert min(found.low, found.high) <= found["value"] <= max(found.low, found.high)


def test_gaps_have_a_row_for_every_order():
    regular = {"partial": 2.0, "forward": 1.0, "partial-random-0": 2.0, "random-0": 1.5}
    star = {"partial": 1.0, "forward": 0.5, "partial-random-0": 1.0, "random-0": 0.5}
    table = gaps_by_order(pd.concat([barriers(regular, "matching"),
                                     barriers(star, "matching", "star-heldout")]))
    assert list(table.order) == ["forward", "random-0"]
    shares = table["share that complete matching closes"].str.split().str[0]
    assert list(shares) == ["1.00", "0.50"]


def test_an_interval_for_a_function_of_means():
    frame = barriers({"one": 1.0}, "how")
    assert np.allclose(
        bootstrap_function(
            lambda a, b, c: (a - b) / c, frame, frame.assign(value=frame.value / 2), frame
        ),
        0.5,
    )


def test_rematch_options_are_named():
    assert rematch_options([2]) == {
        "every 2": dict(rematch_every=2),
        "once": dict(rematch_every=0),
        "never": dict(rematch_every=None),
    }


@pytest.fixture(scope="module")
def plane(study):
    states = [study.state(member) for member in study.members("heldout", 3)]
    return Plane(study.models.network(), *states), states


def test_corners_of_a_plane_are_the_models_themselves(study, plane):
    plane, states = plane
    assert plane_losses(plane, study.models.data, plane.corners).tolist() == [
        evaluate(study.models.network(), state, study.models.data.train)[0] for state in states
    ]
    for corner, state in zip(plane.corners, states):
        assert all(
            torch.equal(tensor, state[name]) for name, tensor in plane.state(*corner).items()
        )


def test_distances_in_a_plane_are_those_between_parameters(study, plane):
    plane, _ = plane
    points = np.random.default_rng(0).normal(size=(4, 2)) * plane.corners.max()
    flat = lambda state: torch.cat(
        [state[name].double().flatten() for name, _ in study.models.network().named_parameters()]
    )
    vectors = [flat(plane.state(*point)) for point in points]
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
        assert (vectors[i] - vectors[j]).norm().item() == pytest.approx(
            np.linalg.norm(points[i] - points[j]), rel=1e-4
        )


def test_segments_of_a_plane_are_paths(study, plane):
    plane, states = plane
    segments = plane_segments(plane, 5)
    assert segments.shape == (3, 5, 2)
    assert (segments[:, [0, -1]] == plane.corners[[[0, 1], [0, 2], [1, 2]]]).all()
    middle = refresh_batchnorm(study.models.network(), interpolate(states[1], states[2], 0.5), study.models.data)
    assert plane_losses(plane, study.models.data, segments[2, 2:3]).item() == pytest.approx(
        evaluate(study.models.network(), middle, study.models.data.train)[0], rel=1e-4
    )
    grid = plane_grid(plane, 4, margin=0.5)
    assert grid.shape == (4, 4, 2)
    assert (grid.min((0, 1)) < plane.corners.min(0)).all()
    assert (grid.max((0, 1)) > plane.corners.max(0)).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a, b, c: (a, a, c), "state_b: it has the parameters of state_a; three networks that"),
        (lambda a, b, c: (a, b, b), "state_c: three networks that are not on one line"),
        (lambda a, b, c: (a, b, a), "state_c: three networks that are not on one line"),
        (
            lambda a, b, c: (
                a,
                b,
                {name: tensor[..., :1] if tensor.ndim else tensor for name, tensor in c.items()},
            ),
            "has the shape",
        ),
    ],
)
def test_three_networks_that_span_no_plane_are_refused(study, plane, change, message):
    with pytest.raises(ValueError, match=message):
        Plane(study.models.network(), *change(*plane[1]))


@pytest.mark.parametrize("role", ["source", "heldout"])
def test_a_measured_plane_is_tidy_and_measured_once(study, role, monkeypatch):
    star = study.stars([2], 1)[0]
    plan = Plan([PlanePart(study, star, role, steps=3)], PLANE_COLUMNS)
    frame = plan.rows()
    rows = frame[(frame.metric == "loss") & (frame.split == "train")]
    assert (rows.t.isna().sum(), rows.t.notna().sum()) == (9, 4 * 3)
    assert not frame.duplicated([column for column in frame.columns if column != "value"]).any()
    at_star = rows[(rows.model_a == star[2].name) & (rows.t == 0)]
    assert len(at_star) == 2
    assert set(at_star.value) == {
        evaluate(study.models.network(), study.state(star[2]), study.models.data.train)[0]
    }
    assert len(set(zip(at_star.x, at_star.y))) == 1
    monkeypatch.setattr("starlight_nb.paper.comparisons.plane_losses", None)
    pd.testing.assert_frame_equal(frame, plan.rows())
    paths = measured_paths(study, star_pairs([star], study.members("heldout", 2), 2))
    for model in (f"{role}-0", f"{role}-1"):
        own, path = (
            part[
                (part.model_a == star[2].name)
                & (part.model_b == model)
                & (part.split == "train")
                & (part.metric == "loss")
            ].value
            for part in (rows, paths)
        )
        np.testing.assert_allclose(
            own, path, rtol=1e-3, err_msg="a segment of the plane is the path of its pair"
        )


def test_a_plane_of_others_is_refused(study):
    with pytest.raises(ValueError, match="role: 'heldouts' is not known; did you mean 'heldout'"):
        PlanePart(study, study.stars([2], 1)[0], "heldouts", steps=3).measurements


def test_the_published_mix_of_warm_ups_is_whole():
    from starlight_nb.paper.published import published
    rows = published("appendix_warmup", split="train", metric="loss_barrier").set_index("pair")
    assert rows.n.to_dict() == {"regular-regular": 60, "star-heldout": 6, "star-source": 10}
    assert rows["mean"].is_monotonic_decreasing
    assert published("appendix_warmup", metric="accuracy_barrier")["mean"].between(0, 0.05).all()
    assert (published("appendix_warmup").n_source.dropna() == 10).all()
