"Fusion: averages, ensembles, fused stars, their costs, and the study that compares them."
from functools import partial

import pytest
import torch
from conftest import make_study
from torch import nn

from starlight_nb.paper import predictors as predictors_module, study
from starlight_nb.barriers import unit_statistics
from starlight_nb.data import load
from starlight_nb.evaluation import evaluate, refresh_batchnorm
from starlight_nb.fusion import (
    aligned, average, average_aligned, ensemble, inference_cost, train_fused_star)
from starlight_nb.paper.predictors import (
    PredictorPart, cost_table, fusion_summary, fusion_table, predictors)
from starlight_nb.models import build, generator
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.training import Recipe
from starlight_nb.paper.profiles import load_profile
from starlight_nb.training import state_of, train_population


@pytest.fixture(scope="module")
def data(): return load("digits")


@pytest.fixture(scope="module", params=["mlp", "resnet"])
def networks(request, data):
    make = partial(build, request.param)
    states = train_population(make, data, Recipe(epochs=2, batch_size=100, lr=0.05), range(3))
    return make(), infer_spec(make(), data.train.x[:2]), states


@pytest.mark.parametrize("around", ["first", "together"])
def test_an_average_does_not_depend_on_the_order_of_the_units(networks, around, data):
    model, spec, states = networks
    moved = [states[0]] + [
        permute(spec, spec.random(generator(n, "test")), state)
        for n, state in enumerate(states[1:])
    ]
    one, other = (average_aligned(spec, them, around=around) for them in (states, moved))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-5, rtol=1e-4)


def test_restored_statistics_are_those_of_the_training_data(networks, data):
    model, spec, states = networks
    plain = average_aligned(spec, states)
    restored = average_aligned(spec, states, model=model, data=data)
    expected = refresh_batchnorm(model, plain, data)
    assert all(torch.equal(restored[name], expected[name]) for name in expected)
    repaired = average_aligned(spec, states, model=model, data=data, repair=True)
    assert (
        evaluate(model, repaired, data.train)[0] <= 1.5 * evaluate(model, restored, data.train)[0]
    )
    members = [unit_statistics(model, state, data) for state in aligned(spec, states)]
    wanted = {name: sum(own[name] for own in members) / 3 for name in members[0]}
    found, unrepaired = (unit_statistics(model, state, data) for state in (repaired, restored))
    for name, statistics in wanted.items():
        torch.testing.assert_close(found[name], statistics, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(unrepaired[name], statistics, atol=1e-3, rtol=1e-3)
    normalised = any("running" in name for name in states[0])
    assert bool(wanted) != normalised, "layers before a normalisation have no biases to repair"


def test_an_ensemble_is_the_mean_of_its_members_whatever_the_batch(networks, data):
    model, _, states = networks
    by_hand = []
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad(): by_hand.append(model.eval()(data.test.x).double().softmax(1))
    for batch_size in (1, 7, 1000):
        torch.testing.assert_close(
            ensemble(model, states, data.test.x[:50], batch_size),
            sum(by_hand)[:50] / 3,
            atol=1e-6,
            rtol=0,
        )


def test_a_fused_star_is_a_star_with_its_own_loss(networks, data):
    from starlight_nb.star import train_star
    model, spec, states = networks
    recipe = Recipe(epochs=1, batch_size=200, lr=0.02)
    one = train_fused_star(model, states, data, recipe, spec=spec, seed=3)
    other = train_star(model, states, data, recipe, spec=spec, seed=3, own_loss_weight=1.0)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    message = "own_loss_weight: a number of at least 0 is needed, not -1"
    with pytest.raises(ValueError, match=message):
        train_fused_star(model, states, data, recipe, own_loss_weight=-1)


def test_multiplications_are_counted_as_by_hand():
    conv = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    )
    cost = inference_cost(conv, torch.zeros(7, 3, 4, 4), members=3, repeats=1)
    assert cost["multiply_adds"] == 3 * (16 * 8 * 27 + 128 * 5)
    assert cost["parameters"] == 3 * (8 * 27 + 8 + 128 * 5 + 5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda spec, model, data: aligned(spec, []), "states: at least one"),
        (
            lambda spec, model, data: aligned(spec, [state_of(model)], "mean"),
            "around: 'mean' is not known",
        ),
        (
            lambda spec, model, data: average_aligned(spec, [state_of(model)], model=model),
            "model, data: the statistics of an average need both",
        ),
        (
            lambda spec, model, data: average([state_of(model), {}]),
            "only one of the two states",
        ),
        (
            lambda spec, model, data: inference_cost(model, data.test.x[:2], members=0),
            "members: a whole number of at least 1",
        ),
        (lambda spec, model, data: ensemble(model, [], data.test), "states: at least one"),
    ],
)
def test_bad_input(networks, data, call, message):
    model, spec, _ = networks
    with pytest.raises(ValueError, match=message): call(spec, model, data)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_study(load_profile("smoke").settings["mlp"], tmp_path_factory.mktemp("store"))


def test_splits_have_no_source_in_common(small):
    found = predictors(small, [1, 2], stars=1, source_sets=3, equal_budget=1)
    sources_of = {
        (predictor.n_source, predictor.first): {member.name for member in predictor.members}
        for predictor in found
        if predictor.method == "ensemble"
    }
    # four sources make two sets of two
    assert list(sources_of) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2)]
    assert not sources_of[2, 0] & sources_of[2, 2]
    assert all(len(sources) == count for (count, _), sources in sources_of.items())
    stars = [predictor for predictor in found if predictor.method == "fused star"]
    assert {star.name for star in stars} >= {"fused-n2-s0", "fused-n2-s0from2"}
    for star in stars:
        own = {source.name for source in star.members[0].sources}
        assert own == sources_of[star.n_source, star.first]


def test_of_one_source_everything_but_the_star_is_that_source(small):
    found = predictors(small, [1], stars=1, source_sets=1, equal_budget=1)
    frame = PredictorPart(small, found).rows()
    test = frame[(frame.split == "test") & (frame.metric == "accuracy")].set_index("method").value
    for method in ("ensemble", "average", "matched average, refreshed"):
        assert test[method] == test["regular"]


def test_a_second_study_of_fusion_trains_nothing(small, monkeypatch):
    found = predictors(small, [2], stars=1, source_sets=1, equal_budget=1)
    first = PredictorPart(small, found).rows()
    for module, name in (
        (study, "train_stacked"),
        (study, "train_star"),
        (predictors_module, "predictions"),
    ):
        monkeypatch.setattr(module, name, None)
    again = predictors(small, [2], stars=1, source_sets=1, equal_budget=1)
    assert PredictorPart(small, again).rows().equals(first)


def test_the_table_says_what_the_rows_say(small):
    found = predictors(small, [2], stars=2, source_sets=2, equal_budget=2)
    frame = PredictorPart(small, found).rows()
    summary = fusion_summary(frame).set_index("method")
    rows = frame[(frame.split == "test") & (frame.metric == "accuracy")]
    stars = rows[rows.method == "fused star"]
    assert summary.loc["fused star", "mean"] == pytest.approx(stars.value.mean())
    assert summary.loc["fused star", "n"] == len(stars) == 4
    assert summary.loc["best fused star", "mean"] == pytest.approx(
        stars.groupby("first").value.max().mean()
    )
    assert (
        f"{100 * stars.value.mean():.1f} ["
        in fusion_table(summary.reset_index())["fused star"].item()
    )
    costs = cost_table(small, [2]).set_index("method")
    recipe, star = small.setting.recipe, small.setting.star_recipe
    assert costs.loc["fused star", "gradients to train"] == 14 * (
        2 * recipe.epochs + 2 * star.epochs
    )
