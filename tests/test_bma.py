"""Draws from posteriors, averages of predictions, and metrics against others' and on the edges."""
import dataclasses
import math
import subprocess
import sys
import time
import weakref
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_study
from netcal.metrics import ECE
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch import nn

from starlight_nb.paper import averages
from starlight_nb.paper.averages import (
    AveragePart, average_differences, average_table, posteriors)
from starlight_nb.bma import (
    auroc, average_predictions, calibration_error, cross_temperature, dropout_predictions,
    example_scores, fit_temperature, interval, matched_sources, metrics_of, predictions,
    reliability, resample_weights, resampled_metrics, running_average, sample_gaussian,
    sample_star_domain, uncertainty_metrics, with_temperature)
from starlight_nb.data import LOADERS, SHIFTS, Split, shifted
from starlight_nb.evaluation import evaluate, interpolate, refresh_batchnorm
from starlight_nb.paper.housekeeping import stored
from starlight_nb.models import build, generator, initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.training import Recipe
from starlight_nb.star import StarResult, train_star
from starlight_nb.paper.profiles import load_profile
from starlight_nb.paper.making import make_missing
from starlight_nb.paper.parts import Plan
from starlight_nb.training import state_of, train_population

RECIPE = Recipe(epochs=2, batch_size=100, lr=0.05, schedule="one-cycle")


def softmax(n, classes, seed=0, scale=2.0):
    "Random probabilities, and labels of which every second one is the most probable class."
    generator = torch.Generator().manual_seed(seed)
    probs = (torch.randn(n, classes, generator=generator) * scale).softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    return probs, torch.where(torch.arange(n) % 2 == 0, probs.argmax(1), labels)


@pytest.fixture(scope="module", params=["mlp", "resnet"])
def trained(request, digits):
    """A model, its spec, three sources with refreshed statistics and a star, without and with batch
    normalisation."""
    make = partial(
        build,
        request.param,
        **({"depth": 2, "width": 8} if request.param == "mlp" else {"width": 4, "blocks": [1]}),
    )
    model = initialise(make, 9)
    sources = [
        refresh_batchnorm(model, state, digits)
        for state in train_population(make, digits, RECIPE, seeds=range(3))
    ]
    spec = infer_spec(model, digits.train.x[:2])
    return model, spec, sources, train_star(model, sources, digits, RECIPE, spec=spec, seed=9)


# --- metrics

CONFIDENCES = {
    "random": (np.random.default_rng(0).random(1000), np.random.default_rng(1).random(1000) < 0.5),
    "on every edge": (np.linspace(0, 1, 16), np.arange(16) % 3 == 0),
    "on edges, as fractions": (
        np.array([k / 15 for k in range(16)] + [0.2, 0.4, 0.6, 0.8, 1.0]),
        np.arange(21) % 2 == 0,
    ),
    "just beside the edges": (
        np.clip(np.concatenate([np.nextafter(np.linspace(0, 1, 16), to) for to in (0, 1)]), 0, 1),
        np.arange(32) % 2 == 0,
    ),
    "constant": (np.full(50, 0.6), np.arange(50) % 2 == 0),
    "all certain and right": (np.ones(9), np.ones(9, bool)),
    "all certain and wrong": (np.ones(9), np.zeros(9, bool)),
    "one": (np.array([0.3]), np.array([True])),
    "few values": (
        np.random.default_rng(2).integers(0, 6, 300) / 5,
        np.random.default_rng(3).random(300) < 0.7,
    ),
}


@pytest.mark.parametrize("case", CONFIDENCES)
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_is_netcals_and_two_lines(case, bins):
    confidence, right = CONFIDENCES[case]
    number = np.clip(np.digitize(confidence, np.linspace(0, 1, bins + 1)) - 1, 0, bins - 1)
    by_hand = sum(abs((confidence - right)[number == k].sum()) for k in range(bins)) / len(right)
    table = reliability(pd.DataFrame(dict(confidence=confidence, right=right)), bins)
    from_bins = (table["count"] * (table.confidence - table.accuracy).abs()).sum() / len(right)
    assert (
        calibration_error(confidence, right, bins)
        == pytest.approx(by_hand, abs=1e-12)
        == pytest.approx(from_bins, abs=1e-12)
    )
    assert table["count"].sum() == len(right) and table.confidence[table["count"] == 0].isna().all()


@pytest.mark.parametrize("n, classes", [(500, 3), (500, 10), (300, 1000), (4000, 10)])
def test_metrics_are_those_of_netcal_and_scikit_learn(n, classes):
    probs, labels = softmax(n, classes)
    ours, p, y = uncertainty_metrics(probs, labels), probs.double().numpy(), labels.numpy()
    right = p.argmax(1) == y
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(p * np.log(p)).sum(1)
    assert ours["ece"] == pytest.approx(ECE(bins=15).measure(p, y), abs=1e-9)
    assert ours["auroc_maxprob"] == pytest.approx(roc_auc_score(right, p.max(1)), abs=1e-9)
    assert ours["auroc_entropy"] == pytest.approx(roc_auc_score(right, -entropy), abs=1e-9)
    assert ours["nll"] == pytest.approx(
        log_loss(y, p / p.sum(1, keepdims=True), labels=range(classes)), abs=1e-6
    )
    assert ours["brier"] == pytest.approx(((p - np.eye(classes)[y]) ** 2).sum(1).mean(), abs=1e-9)
    assert ours["accuracy"] == right.mean()
    assert list(ours) == ["accuracy", "nll", "brier", "ece", "auroc_maxprob", "auroc_entropy"]
    assert uncertainty_metrics(probs.numpy(), labels.numpy()) == ours
    assert all(isinstance(value, float) for value in ours.values())


def test_two_classes_mean_the_more_probable_one():
    """netcal would measure the second column; scikit-learn's Brier score is half of the sum over
    both."""
    probs, labels = softmax(400, 2)
    ours, p, y = uncertainty_metrics(probs, labels), probs.double().numpy(), labels.numpy()
    confidence, right = p.max(1), p.argmax(1) == y
    number = np.digitize(confidence, np.linspace(0, 1, 16)) - 1
    assert ours["ece"] == pytest.approx(
        sum(abs((confidence - right)[number == k].sum()) for k in range(15)) / 400, abs=1e-9
    )
    assert ours["brier"] == pytest.approx(2 * brier_score_loss(y, p[:, 1]), abs=1e-6)
    assert (
        ours["auroc_maxprob"]
        == pytest.approx(roc_auc_score(right, confidence), abs=1e-9)
        == pytest.approx(ours["auroc_entropy"], abs=1e-4)
    )


@pytest.mark.parametrize("present", [[0], [2, 5]])
def test_labels_of_which_few_classes_occur(present):
    "netcal refuses the matrix, or takes it for a binary problem."
    probs, _ = softmax(200, 10)
    labels = torch.tensor(present * (200 // len(present)))
    with pytest.raises(RuntimeError):
        ECE(bins=15).measure(probs.numpy(), labels.numpy())
    right = probs.argmax(1) == labels
    assert uncertainty_metrics(probs, labels)["ece"] == pytest.approx(
        ECE(bins=15).measure(probs.max(1).values.double().numpy(), right.long().numpy()), abs=1e-12
    )


@pytest.mark.parametrize("values", [2, 5, 1000])
def test_auroc_with_ties_is_scikit_learns(values):
    random = np.random.default_rng(values)
    scores, side = random.integers(0, values, 3000) / values, random.random(3000) < 0.1
    assert auroc(scores[side], scores[~side]) == pytest.approx(
        roc_auc_score(side, scores), abs=1e-12
    )
    assert auroc(scores[side], scores[~side]) + auroc(scores[~side], scores[side]) == pytest.approx(
        1
    )
    with pytest.raises(ValueError, match="higher: a value is not a number"):
        auroc([np.nan], [1.0])


@pytest.mark.parametrize("right", [True, False])
def test_where_there_is_nothing_to_rank(right):
    probs, _ = softmax(30, 4)
    found = uncertainty_metrics(probs, probs.argmax(1) if right else probs.argmin(1))
    assert math.isnan(found["auroc_maxprob"])
    assert math.isnan(found["auroc_entropy"])
    assert found["accuracy"] == right
    assert all(math.isfinite(found[name]) for name in ("nll", "brier", "ece"))


def test_a_probability_of_zero_costs_a_finite_loss():
    found = [
        uncertainty_metrics(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=dtype), [0, 0])
        for dtype in (torch.float32, torch.float64)
    ]
    assert found[0] == found[1]
    assert found[0]["nll"] == pytest.approx(87.3365 / 2, abs=1e-3)
    assert found[0]["brier"] == 1


@pytest.mark.parametrize(
    "probs, labels, message",
    [
        ([[0.5, 0.5], [np.inf, 0.0]], [0, 0], "row 1 has a value that is not finite"),
        (torch.zeros(0, 3), [], r"not the shape \(0, 3\)"),
        (torch.full((3, 2), 0.5), torch.zeros(3, 2), "labels: 3 whole numbers"),
        (torch.full((1, 2), 0.5), [True], "labels: 1 whole numbers"),
        (
            torch.cat([torch.full((200_000, 10), 0.1), torch.ones(1, 10)]),
            torch.zeros(200_001, dtype=torch.long),
            "row 200000 sums to 10",
        ),
    ],
)
def test_what_are_no_probabilities(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        uncertainty_metrics(probs, labels)


def test_a_large_set_takes_about_a_second():
    probs, labels = softmax(50_000, 1000)
    calibration_error([0.5], [True])  # netcal is imported once
    start = time.perf_counter()
    uncertainty_metrics(probs, labels)
    assert time.perf_counter() - start < 10, "about a third of a second on a quiet core"


def test_a_weight_is_a_repetition():
    probs, labels = softmax(120, 4, scale=0.7)
    probs[60:] = probs[:60]  # ties
    scores, weights = example_scores(probs, labels), resample_weights(120, 5)
    assert weights.shape == (5, 120)
    assert (weights.sum(1) == 120).all()
    assert (weights == resample_weights(120, 5)).all()
    found = resampled_metrics(scores, weights)
    for number, row in enumerate(weights):
        repeated = metrics_of(scores.loc[np.repeat(np.arange(120), row.astype(int))])
        assert {name: values[number] for name, values in found.items()} == pytest.approx(
            repeated, abs=1e-12
        )
    none_wrong = resampled_metrics(scores, scores.right.to_numpy(float)[None])
    assert np.isnan(none_wrong["auroc_maxprob"][0]) and none_wrong["accuracy"][0] == 1


def test_intervals_contain_the_value():
    assert interval(0.5, np.array([0.6, 0.7, 0.8, np.nan]), level=1.0) == pytest.approx((0.4, 0.6))
    assert all(map(math.isnan, interval(0.5, np.array([np.nan]))))
    assert all(map(math.isnan, interval(math.nan, np.ones(3))))


def test_temperature_is_found_again():
    logits = (
        torch.randn(4000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double) * 2
    )
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))[
        :, 0
    ]
    assert fit_temperature((logits * 3).softmax(1), labels) == pytest.approx(3, rel=0.1)
    crossed = cross_temperature((logits * 3).softmax(1), labels)
    assert (
        uncertainty_metrics(crossed, labels)["ece"]
        < 0.03
        < uncertainty_metrics((logits * 3).softmax(1), labels)["ece"]
    )
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert with_temperature(sure, 2.0).isfinite().all()
    assert math.isfinite(fit_temperature(sure, [0, 0]))
    with pytest.raises(ValueError, match="row 0 sums to"):
        fit_temperature(logits.abs() + 1, labels)
    with pytest.raises(ValueError, match="two halves"):
        cross_temperature(sure[:1], [0])


# --- draws

def test_the_ends_are_the_star_and_a_matched_source(trained, digits):
    model, spec, sources, star = trained
    ends = {
        t: sample_star_domain(
            star, sources, 1, generator(0, "draws"), spec=spec, model=model, data=digits,
            t_sampling=t
        )
        for t in (0, 1)
    }
    number, t = ends[1].plan[0]
    predict = lambda state: average_predictions(model, [state], digits.test)
    assert t == 1 and torch.equal(predict(ends[0][0]), predict(star.state))
    assert (
        predict(ends[1][0]) - predict(permute(spec, star.permutations[number], sources[number]))
    ).abs().max() == 0
    assert (predict(ends[1][0]) - predict(sources[number])).abs().max() < 1e-6, (
        "a permuted network computes the same"
    )
    for end in (ends[0][0], ends[1][0]):
        assert (predict(refresh_batchnorm(model, end, digits)) - predict(end)).abs().max() < 1e-5, (
            "refreshed statistics stay"
        )


def test_a_draw_between_the_ends_has_refreshed_statistics(trained, digits):
    model, spec, sources, star = trained
    draws = sample_star_domain(star, sources, 4, generator(0, "draws"), model=model, data=digits)
    for state, (number, t) in zip(draws, draws.plan):
        point = interpolate(
            star.state, permute(spec, star.permutations[number], sources[number]), t
        )
        wanted = refresh_batchnorm(model, point, digits)
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_statistics_need_model_and_data_or_a_word(digits):
    model = initialise(partial(build, "resnet", width=4, blocks=[1]), 0)
    state = state_of(model)
    for missing in (dict(), dict(model=model), dict(data=digits)):
        for sample in (sample_star_domain, sample_gaussian):
            with pytest.raises(
                ValueError, match="model, data: both are needed to measure 'stem.1.running_var'"
            ):
                sample(state, [state], 1, generator(0, "draws"), **missing)
    source = state | {"stem.1.running_var": state["stem.1.running_var"] + 1}
    draws = sample_star_domain(state, [source], 1, generator(0, "draws"), refresh=False)
    (_, t), = draws.plan
    wanted = interpolate(state, source, t)
    assert 0 < t < 1 and draws[0].keys() == state.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in draws[0].items()), (
        "not measured"
    )


def test_nothing_that_is_given_changes(trained, digits):
    model, spec, sources, star = trained
    before = [
        {name: tensor.clone() for name, tensor in state.items()}
        for state in [star.state, *sources, state_of(model)]
    ]
    for sample in (sample_star_domain, sample_gaussian):
        average_predictions(
            model,
            sample(star, sources, 3, generator(0, "draws"), spec=spec, model=model, data=digits),
            digits.test,
        )
    for old, new in zip(before, [star.state, *sources, state_of(model)]):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_draws_are_uniform_and_repeatable(trained):
    model, spec, sources, star = trained
    sample = partial(sample_star_domain, star, sources, spec=spec, refresh=False)
    draws = sample(3000, generator(0, "draws"))
    numbers, ts = (np.array(part) for part in zip(*draws.plan))
    assert np.abs(np.bincount(numbers) / 3000 - 1 / 3).max() < 0.04
    assert abs(ts.mean() - 0.5) < 0.02
    assert abs(ts.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(numbers, ts)[0, 1]) < 0.06
    assert (
        draws.plan[:7]
        == sample(7, generator(0, "draws")).plan
        != sample(7, generator(1, "draws")).plan
    )
    assert all(torch.equal(draws[5][name], draws[2:9][3][name]) for name in star.state)


def test_sources_may_be_read_when_they_are_needed(trained):
    model, spec, sources, star = trained

    class Read:
        reads = 0
        def __len__(self): return len(sources)
        def __getitem__(self, n):
            if n >= len(sources): raise IndexError
            self.reads += 1
            return sources[n]
    read = Read()
    draws = sample_star_domain(star, read, 5, generator(0, "draws"), spec=spec, refresh=False)
    checked = read.reads
    assert checked == 3 and len(list(draws)) == 5 and read.reads == checked + 5


def test_the_gaussian_has_the_moments_of_the_segments(trained):
    model, spec, sources, star = trained
    draws = sample_gaussian(star, sources, 4000, generator(0, "draws"), spec=spec, refresh=False)
    name = next(name for name, tensor in star.state.items() if tensor.ndim > 1)
    drawn = torch.stack([state[name] for state in draws])
    ts = torch.linspace(0, 1, 201, dtype=torch.double)
    shape = (-1,) + (1,) * star.state[name].ndim
    points = torch.cat(
        [
            (1 - ts).view(shape) * star.state[name] + ts.view(shape) * source[name]
            for source in matched_sources(star, sources, spec=spec)
        ]
    )
    torch.testing.assert_close(drawn.mean(0).double(), points.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0).double(), points.std(0), atol=0.02, rtol=0.1)
    for statistic in (name for name in star.state if "running" in name):
        assert torch.equal(draws[0][statistic], star.state[statistic])


def test_a_wrong_star_is_one_clear_error(trained):
    model, spec, sources, star = trained
    other = StarResult(star.state, star.permutations[:2], [], 0)
    with pytest.raises(ValueError, match="sources: 3 are given, the star was trained with 2"):
        sample_star_domain(other, sources, 1, generator(0, "draws"), spec=spec)
    cut = {name: tensor[..., :-1] if tensor.ndim else tensor for name, tensor in sources[0].items()}
    with pytest.raises(ValueError, match=r"sources\[2\]: it does not fit the star"):
        sample_gaussian(
            star, [*sources[:2], cut], 1, generator(0, "draws"), spec=spec, refresh=False
        )
    with pytest.raises(ValueError, match="t_sampling: .* a constant t"):
        sample_star_domain(
            star, sources, 1, generator(0, "draws"), spec=spec, t_sampling=2.0, refresh=False
        )


# --- averages

def test_averages_do_not_depend_on_the_batch_size(trained, digits):
    model, spec, sources, star = trained
    draws = sample_star_domain(
        star, sources, 4, generator(0, "draws"), spec=spec, model=model, data=digits
    )
    whole = average_predictions(model, draws, digits.test)
    for size in (1, 64, 397, 5000):
        assert (
            average_predictions(model, draws, digits.test.x, batch_size=size) - whole
        ).abs().max() < 1e-6
    assert (
        whole - torch.stack(list(predictions(model, draws, digits.test))).mean(0)
    ).abs().max() < 1e-12
    assert whole.dtype == torch.double and not whole.requires_grad


def test_an_average_of_one_is_the_network(trained, digits):
    model, _, sources, _ = trained
    found = uncertainty_metrics(average_predictions(model, sources[:1], digits.test), digits.test.y)
    assert (found["nll"], found["accuracy"]) == pytest.approx(
        evaluate(model, sources[0], digits.test), abs=1e-6
    )


@pytest.mark.parametrize("count", [5, 60])
def test_no_more_than_two_states_and_predictions_are_alive(make_mlp, solutions, digits, count):
    model = make_mlp()
    alive = {"states": [], "predictions": []}
    most = {"states": 0, "predictions": 0}

    def watched(kind, items, tensor):
        for item in items:
            alive[kind].append(weakref.ref(tensor(item)))
            most[kind] = max(most[kind], sum(ref() is not None for ref in alive[kind]))
            yield item
            del item
    draws = sample_star_domain(solutions[0], solutions[1:], count, generator(0, "draws"))
    found = watched(
        "predictions",
        predictions(model, watched("states", draws, lambda state: state["1.weight"]), digits.test),
        lambda probs: probs,
    )
    for average in running_average(found):
        pass
    assert len(alive["states"]) == count and most["states"] <= 2 and most["predictions"] <= 2
    torch.testing.assert_close(average, average_predictions(model, draws, digits.test))


def test_dropout_is_seeded_and_leaves_the_global_generator_alone(digits):
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )
    state, before = state_of(model), torch.get_rng_state()
    first, again, other = (
        list(dropout_predictions(model, state, digits.test, 3, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in state_of(model).items())
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    many = list(running_average(dropout_predictions(model, state, digits.test, 200, 0)))[-1]
    error = lambda probs: (probs - average_predictions(model, [state], digits.test)).abs().mean()
    assert error(many) < 0.2 * error(first[0]), (
        "the mean of many draws is nearly the network without dropout"
    )
    for silent in (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 10)),
    ):
        with pytest.raises(ValueError, match="model: it has no dropout layer with a rate above 0"):
            dropout_predictions(silent, state_of(silent), digits.test, 3, 0)


def test_the_library_stays_light():
    code = """
import sys, starlight_nb.bma
assert not {'netcal', 'sklearn', 'matplotlib', 'torchvision', 'joblib'} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- data

def test_shifts_keep_labels_shape_and_the_original(digits):
    before = digits.test.x.clone()
    for name in SHIFTS:
        one, again = shifted(digits.test, name), shifted(digits.test, name)
        assert one.x.shape == before.shape
        assert one.x.dtype == before.dtype
        assert torch.equal(one.y, digits.test.y)
        assert torch.equal(one.x, again.x)
        assert not torch.equal(one.x, before)
        assert one.x.isfinite().all()
    assert torch.equal(digits.test.x, before)
    assert torch.equal(
        shifted(shifted(digits.test, "inverted"), "inverted").x.round(decimals=4),
        before.round(decimals=4),
    )


def test_gathered_batches():
    parts = [
        (torch.ones(2, 3), torch.tensor([0, 1], dtype=torch.uint8)),
        (np.zeros((1, 3), np.float32), np.array([1])),
    ]
    assert Split.from_loader(parts).y.tolist() == [0, 1, 1]
    assert Split.from_loader(iter(parts)).x.shape == (3, 3)
    for wrong in ([torch.ones(2, 3)], [(torch.ones(2, 3),)]):
        with pytest.raises(ValueError, match="loader: pairs"):
            Split.from_loader(wrong)


# --- studies

@pytest.fixture
def study(tmp_path):
    return make_study(load_profile("smoke").settings["mlp"], tmp_path / "store")


def test_averages_of_a_study(study, monkeypatch):
    sources, stars = study.members("source", 3), study.stars([3], 2)
    found = posteriors(sources, stars, 2, [1, 3, 5, 2])
    assert [p.counts for p in found if p.method == "deep ensemble"] == [(1, 2, 3)] * 2
    assert {p.compared for p in found} == {1, 3}
    part = AveragePart(study, found, resamples=50)
    frame = part.rows()
    with monkeypatch.context() as patch:
        patch.setattr(averages, "predictions", None)
        pd.testing.assert_frame_equal(frame, part.rows())
    for entry in stored(study.store.root):
        if entry.config["kind"] == "average":
            study.store.path(entry.config).unlink()
    two = dataclasses.replace(study.environment, jobs=2)
    make_missing(Plan([part]), two)
    with monkeypatch.context() as patch:
        patch.setattr(averages, "predictions", None)
        pd.testing.assert_frame_equal(frame, part.rows())
    plain = frame[(frame.split == "test") & frame.bin.isna() & frame.model_a.notna()]
    assert set(plain[plain.method == "star domain"].draws) == {1, 2, 3, 5}
    assert set(plain[plain.method == "Gaussian"].draws) == {3}
    whole = (
        plain[(plain.method == "deep ensemble") & (plain.draws == 3)]
        .groupby("metric")
        .value.agg(["min", "max"])
    )
    assert (whole["max"] - whole["min"]).abs().max() < 1e-9, (
        "every order of all sources is the same ensemble"
    )
    assert frame[frame.split == "test-moved"].metric.nunique() == 9
    assert set(frame.split) == {"test", *(f"test-{name}" for name in SHIFTS)}
    bins = frame[frame.metric == "bin_count"].groupby(["method", "model_a", "model_b"]).value.sum()
    assert (bins == 397).all()
    rows = average_differences(frame)
    assert len(rows)
    assert set(rows.verdict) <= {"higher", "lower", "no difference shown"}
    assert ((rows.low <= rows.difference) & (rows.difference <= rows.high)).all()
    assert list(average_table(frame, {"ece": "ECE"}).method) == [
        "single network", "deep ensemble", "star", "star domain", "Gaussian",
    ]


def test_an_average_in_a_study_is_the_librarys(study):
    sources, stars = study.members("source", 2), study.stars([2], 1)
    found = posteriors(sources, stars, 1, [1, 2])
    frame = (
        AveragePart(study, found, resamples=10)
        .rows()
        .set_index(["method", "draws", "metric", "split"])
        .value
    )
    data, model, states = study.models.data, study.models.network(), [study.state(member) for member in sources]
    wanted = uncertainty_metrics(average_predictions(model, states, data.test), data.test.y)
    for metric, value in wanted.items():
        assert frame["deep ensemble", 2, metric, "test"] == pytest.approx(value, abs=1e-9)
    odd = [
        example_scores(average_predictions(model, states, part), part.y).confidence
        for part in (data.test, shifted(data.test, "noisy"))
    ]
    assert frame["deep ensemble", 2, "auroc_ood_maxprob", "test-noisy"] == pytest.approx(
        auroc(*odd), abs=1e-9
    )


def test_a_study_of_data_that_are_no_images(small, small_profile, tmp_path, monkeypatch):
    monkeypatch.setitem(LOADERS, "small", lambda root: small)
    profile = load_profile(
        small_profile({'"digits"': '"small"', "width = 4": "width = 4, input_shape = [5]"})
    )
    study = make_study(profile.settings["small"], tmp_path / "store")
    found = posteriors(study.members("source", 2), study.stars([2], 1), 1, [1, 2])
    frame = AveragePart(study, found, resamples=10).rows()
    assert set(frame.split) == {"test"} and {"ece", "auroc_maxprob"} <= set(frame.metric)
