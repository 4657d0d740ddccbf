"""What public functions accept, and the one clear error for what they do not: probabilities, labels,
numbers, outputs of networks."""
import dataclasses
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from starlight_nb.barriers import (
    Plane, barrier_between, path_losses, plane_grid, plane_losses, plane_segments, repair)
from starlight_nb.bma import (
    auroc, average_predictions, calibration_error, cross_temperature, dropout_predictions,
    example_scores, fit_temperature, interval, metrics_of, predictions, reliability,
    resample_weights, resampled_metrics, running_average, sample_gaussian, sample_star_domain,
    uncertainty_metrics, with_temperature)
from starlight_nb.data import Dataset, Split
from starlight_nb.evaluation import evaluate, evaluate_stacked, midpoint_loss, refresh_batchnorm
from starlight_nb.fusion import ensemble, inference_cost, train_fused_star
from starlight_nb.matching import (
    Matcher, match_activations, match_jointly, match_many, match_sinkhorn,
    match_straight_through, match_weights)
from starlight_nb.matching.sinkhorn import batch_loss
from starlight_nb.models import build, generator, initialise
from starlight_nb.permutation import infer_spec
from starlight_nb.runtime.store import config_key
from starlight_nb.star import StarOptions, train_star
from starlight_nb.training import Recipe, fit, state_of, train, train_population
from starlight_nb.training.loop import step_seconds, train_stacked
from starlight_nb.training.networks import training_loss

RECIPE = Recipe(epochs=1, batch_size=20, lr=0.05)


def drawn(n=60, classes=4, dtype=torch.float32):
    "Logits of this precision, and labels of which all classes occur."
    logits = torch.randn(n, classes, generator=torch.Generator().manual_seed(0)) * 2
    return logits.to(dtype), torch.arange(n) % classes


LOGITS, LABELS = drawn()
PROBS = LOGITS.softmax(1)

# --- probabilities: the same errors in every function that takes them

OF_PROBS = {
    "example_scores": lambda probs: example_scores(probs, LABELS),
    "uncertainty_metrics": lambda probs: uncertainty_metrics(probs, LABELS),
    "with_temperature": lambda probs: with_temperature(probs, 2.0),
    "fit_temperature": lambda probs: fit_temperature(probs, LABELS),
    "cross_temperature": lambda probs: cross_temperature(probs, LABELS),
    "running_average": lambda probs: list(running_average([probs])),
}
NO_PROBS = {
    "logits": (LOGITS, "row 0 has the value .*; probabilities are needed, and logits.softmax"),
    "logits that are positive": (LOGITS.exp(), "row 0 sums to"),
    "logits in bfloat16": (LOGITS.bfloat16(), "row 0 has the value"),
    "log-probabilities": (PROBS.log(), "row 0 has the value"),
    "percents": (100 * PROBS, "row 0 sums to 100"),
    "percents in float16": (100 * PROBS.half(), "row 0 sums to 99.98"),
    "one row off": (PROBS * torch.where(LABELS == 3, 1.01, 1)[:, None], "row 3 sums to 1.01"),
    "one row off in bfloat16": (torch.full((60, 4), 0.26).bfloat16(), "row 0 sums to 1.0"),
    "a negative": (PROBS - 1e-2 * torch.eye(60, 4), "row"),
    "nan": (PROBS.where(PROBS < 0.9, math.nan), "row .* has a value that is not finite"),
    "infinite": (PROBS * math.inf, "row 0 has a value that is not finite"),
    "one-dimensional": (PROBS[:, 0], r"\(n, classes\) are needed, not the shape \(60,\)"),
    "three-dimensional": (PROBS[None], r"not the shape \(1, 60, 4\)"),
    "a number": (0.5, r"not the shape \(\)"),
    "empty": (PROBS[:0], r"not the shape \(0, 4\)"),
    "no classes": (PROBS[:, :0], "at least two classes"),
    "one class": (torch.ones(60, 1), "at least two classes"),
    "complex": (PROBS + 0j, "real numbers are needed"),
    "text": ("softmax", "numbers in a tensor, an array or a list are needed, not str"),
    "ragged": ([[0.5, 0.5], [1.0]], "numbers in a tensor, an array or a list are needed"),
    "nothing": (None, "numbers in a tensor, an array or a list are needed, not NoneType"),
}


@pytest.mark.parametrize("function", OF_PROBS)
@pytest.mark.parametrize("wrong", NO_PROBS)
def test_what_are_no_probabilities_is_the_same_error_everywhere(function, wrong):
    values, message = NO_PROBS[wrong]
    with pytest.raises(ValueError, match=message) as error:
        OF_PROBS[function](values)
    argument = "predictions[0]: " if function == "running_average" else "probs: "
    assert str(error.value).startswith(argument)


@pytest.mark.parametrize("kind", [
    np.asarray, torch.Tensor.tolist, lambda probs: probs.numpy()[::-1].copy()[::-1],
    lambda probs: pd.DataFrame(probs.numpy(), index=np.arange(60)[::-1], columns=list("abcd")),
    lambda probs: probs.clone().requires_grad_(), torch.Tensor.double])
def test_any_container_of_probabilities_gives_the_same_numbers(kind):
    wanted = uncertainty_metrics(PROBS, LABELS)
    assert uncertainty_metrics(kind(PROBS), LABELS) == pytest.approx(wanted, abs=1e-12)
    read_only = LABELS.numpy().copy()
    read_only.flags.writeable = False
    labels = (read_only, pd.Series(read_only, index=np.arange(60)[::-1]), LABELS.int().tolist(),
              LABELS.to(torch.uint8), list(read_only))
    for own in labels:
        assert uncertainty_metrics(PROBS, own) == wanted


@pytest.mark.parametrize("dtype, most", [(torch.float16, 1e-3), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_in_half_precision(classes, dtype, most):
    "Against the softmax in double of the same logits; averages are rounded once more."
    logits, labels = drawn(3000, classes, dtype)
    exact = logits.double().softmax(1)
    right, true = exact.argmax(1) == labels, exact[torch.arange(3000), labels]
    found = uncertainty_metrics(logits.softmax(1), labels)
    assert found["accuracy"] == pytest.approx(right.double().mean().item(), abs=most)
    assert found["nll"] == pytest.approx(-true.log().mean().item(), abs=most)
    brier = ((exact - F.one_hot(labels, classes)) ** 2).sum(1).mean().item()
    assert found["brier"] == pytest.approx(brier, abs=most)
    ours, wanted = with_temperature(logits.softmax(1), 2.0), (logits.double() / 2).softmax(1)
    assert (ours - wanted).abs().max() < 2 * most and (ours.sum(1) - 1).abs().max() < 1e-12
    mean = torch.stack([logits.softmax(1), logits.flip(1).softmax(1)]).mean(0)
    assert mean.dtype == dtype
    assert math.isfinite(uncertainty_metrics(mean, labels)["nll"])
    averages = list(running_average([logits[:20].softmax(1)] * 300))
    assert averages[-1].dtype == torch.double, "a sum of 300 in half precision would be off"
    assert (averages[-1] - exact[:20]).abs().max() < most
    assert (averages[-1].sum(1) - 1).abs().max() < 1e-12


def test_a_confidence_that_exceeds_one_by_rounding_is_one():
    probs = torch.tensor([[1.0005, 0.0], [0.5, 0.5]])
    assert example_scores(probs, [0, 0]).confidence.tolist() == [1.0, 0.5]
    assert calibration_error([1.0005], [True]) < 1e-12


def test_predictions_of_different_shapes_have_no_average():
    with pytest.raises(ValueError, match=r"predictions\[1\]: the shape \(60, 4\) of the others"):
        list(running_average([PROBS, PROBS[1:]]))


# --- labels

OF_LABELS = {
    "example_scores": partial(example_scores, PROBS),
    "uncertainty_metrics": partial(uncertainty_metrics, PROBS),
    "fit_temperature": partial(fit_temperature, PROBS),
    "cross_temperature": partial(cross_temperature, PROBS),
}
NO_LABELS = {
    "from 1": (LABELS + 1, "4 is none of the 4 classes of probs, 0 to 3"),
    "negative": (LABELS - 1, "-1 is none"),
    "floats": (LABELS.float(), "60 whole numbers are needed, .* not torch.float32"),
    "bools": (LABELS > 1, "60 whole numbers are needed, .* not torch.bool"),
    "one-hot": (F.one_hot(LABELS), r"of shape \(60, 4\)"),
    "a column": (LABELS[:, None], r"of shape \(60, 1\)"),
    "too few": (LABELS[1:], r"of shape \(59,\)"),
    "too many": (LABELS.repeat(2), r"of shape \(120,\)"),
    "none": ([], r"of shape \(0,\)"),
    "a number": (1, r"of shape \(\)"),
    "complex": (LABELS + 0j, "real numbers are needed"),
    "names": (["cat"] * 60, "numbers in a tensor, an array or a list are needed, not list"),
    "None": (None, "not NoneType"),
}


@pytest.mark.parametrize("function", OF_LABELS)
@pytest.mark.parametrize("wrong", NO_LABELS)
def test_wrong_labels_are_the_same_error_everywhere(function, wrong):
    values, message = NO_LABELS[wrong]
    with pytest.raises(ValueError, match=f"^labels: .*{message}"):
        OF_LABELS[function](values)


# --- columns of scores, weights, levels

SCORES = example_scores(PROBS, LABELS)
OF_SCORES = {
    "metrics_of": metrics_of, "reliability": reliability,
    "resampled_metrics": lambda scores: resampled_metrics(scores, resample_weights(60, 5)),
}
NO_SCORES = {
    "probabilities": (PROBS, "scores: a table is needed, .*, not Tensor"),
    "no confidence": (SCORES.drop(columns="confidence"), "scores: the column 'confidence' is missing"),
    "empty": (SCORES[:0], "scores.right: at least one example is needed"),
    "percents": (SCORES.assign(confidence=100 * SCORES.confidence), "scores.confidence: .* not "),
    "nan": (SCORES.assign(confidence=math.nan), "scores.confidence: a value is not a number"),
    "labels": (SCORES.assign(right=LABELS.numpy()), "scores.right: true or false .* not 2"),
    "text": (SCORES.assign(right="yes"), "scores.right: numbers"),
}


@pytest.mark.parametrize("function", OF_SCORES)
@pytest.mark.parametrize("wrong", NO_SCORES)
def test_wrong_scores_are_the_same_error_everywhere(function, wrong):
    values, message = NO_SCORES[wrong]
    with pytest.raises(ValueError, match=f"^{message}"):
        OF_SCORES[function](values)


def test_scores_that_were_written_and_read_are_the_same():
    "A file has 0 and 1 in place of false and true, and rows in another order another index."
    read = SCORES.astype({"right": int}).iloc[::-1]
    assert metrics_of(read) == pytest.approx(metrics_of(SCORES), abs=1e-12)


@pytest.mark.parametrize("measure, message", [
    (lambda: calibration_error([0.5, 0.7], [True]), "right: one value for each of 2 confidences"),
    (lambda: calibration_error([50, 70], [1, 0]), "confidence: probabilities from 0 to 1"),
    (lambda: calibration_error(LOGITS[:, 0], LABELS > 1), "confidence: probabilities from 0 to 1"),
    (lambda: calibration_error(PROBS, LABELS), r"confidence: one number .* shape \(60, 4\)"),
    (lambda: calibration_error([0.5, math.nan], [1, 0]), "confidence: a value is not a number"),
    (lambda: calibration_error([0.5] * 60, LABELS), "right: true or false"),
    (lambda: calibration_error([], []), "confidence: at least one example"),
    (lambda: auroc([math.nan], [0.0]), "higher: a value is not a number"),
    (lambda: auroc([0.0], [math.nan]), "lower: a value is not a number"),
    (lambda: auroc(PROBS, PROBS[:, 0]), r"higher: one number for each example .* \(60, 4\)"),
    (lambda: auroc(["high"], [0.0]), "higher: numbers"),
    (lambda: auroc([1.0], None), "lower: numbers"),
    (lambda: resampled_metrics(SCORES, np.ones((2, 59))), r"weights: a matrix \(resamples, 60\)"),
    (lambda: resampled_metrics(SCORES, np.ones(60)), r"weights: .* not the shape \(60,\)"),
    (lambda: resampled_metrics(SCORES, -np.ones((1, 60))), "weights: finite numbers .* not -1"),
    (lambda: resampled_metrics(SCORES, np.full((1, 60), np.nan)), "weights: finite .* not nan"),
    (lambda: resampled_metrics(SCORES, np.zeros((1, 60))), "weights: all weights of resample 0"),
    (lambda: interval("a", [0.5]), "value: numbers"),
    (lambda: interval(math.inf, [0.5]), "value: a value is infinite"),
    (lambda: interval(0.5, [[0.5]]), "resampled: one number for each example"),
    (lambda: interval(0.5, [math.inf]), "resampled: a value is infinite"),
    (lambda: interval(0.5, [0.5], 0), "level: a number above 0 and at most 1 is needed, not 0"),
    (lambda: interval(0.5, [0.5], 2), "level: a number above 0 and at most 1 is needed, not 2"),
    (lambda: interval(0.5, [0.5], 95), "level: a number above 0 and at most 1"),
])
def test_wrong_values_of_metrics_are_named(measure, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        measure()


def test_infinite_scores_can_be_ranked():
    assert auroc([math.inf, 1.0], [-math.inf, 1.0]) == (3 + 0.5) / 4
    assert auroc(torch.tensor([2.0]).bfloat16(), torch.tensor([1.0], requires_grad=True)) == 1


# --- labels beyond the classes of a model, outputs that are no logits

class Returning(nn.Module):
    "A network of three classes whose outputs are changed in some way."
    def __init__(self, change=lambda logits: logits):
        super().__init__()
        self.hidden, self.last, self.change = nn.Linear(5, 8), nn.Linear(8, 3), change

    def forward(self, x):
        return self.change(self.last(F.relu(self.hidden(x))))


def doors(data, change=lambda logits: logits):
    "Every public function in which a network of three classes meets the labels of data."
    model, a, b, c = (initialise(partial(Returning, change), seed) for seed in range(4))
    a, b, c = map(state_of, (a, b, c))
    spec = infer_spec(Returning(), data.train.x[:2])
    descent = dict(model=model, data=data, steps=2)
    return {
        "evaluate": lambda: evaluate(model, a, data.train),
        "evaluate_stacked": lambda: evaluate_stacked(model, [a, b], data.train),
        "midpoint_loss": lambda: midpoint_loss(model, a, b, data),
        "path_losses": lambda: path_losses(model, a, b, data, ts=3),
        "path_losses, stacked": lambda: path_losses(model, a, b, data, ts=3, points_per_batch=3),
        "path_losses, repair": lambda: path_losses(model, a, b, data, ts=3, repair=True),
        "barrier_between": lambda: barrier_between(model, a, b, data, spec=spec),
        "plane_losses": lambda: plane_losses(Plane(model, a, b, c), data, np.zeros((1, 2))),
        "train": lambda: train(model, data, RECIPE, 0),
        "train_stacked": lambda: train_stacked([model, model], data, RECIPE, [0, 1]),
        "train_population": lambda: train_population(lambda: model, data, RECIPE, range(7)),
        "train_star": lambda: train_star(model, [a, b], data, RECIPE, spec=spec),
        "train_fused_star": lambda: train_fused_star(model, [a, b], data, RECIPE, spec=spec),
        "step_seconds": lambda: step_seconds([model], data, RECIPE),
        "predictions": lambda: next(predictions(model, [a], data.train)),
        "average_predictions": lambda: average_predictions(model, [a, b], data.train),
        "ensemble": lambda: ensemble(model, [a, b], data.train),
        "match_weights": lambda: match_weights(spec, a, b, model=model, data=data, restarts=1),
        "match_sinkhorn": lambda: match_sinkhorn(spec, a, b, cost="random", **descent),
        "match_straight_through": lambda: match_straight_through(spec, a, b, **descent),
    }


DOORS = list(doors(Dataset("three", *2 * [Split(torch.randn(9, 5), torch.arange(9) % 3)])))


def moved(data, by):
    "The same data with other numbers of the classes."
    return Dataset("moved", *(Split(part.x, part.y + by) for part in (data.train, data.test)))


@pytest.mark.parametrize("door", DOORS)
def test_labels_beyond_the_classes_are_the_same_error_everywhere(small, door):
    message = "^data: label 3, but the model has 3 classes"
    with pytest.raises(ValueError, match=message):
        doors(moved(small, 1))[door]()
    doors(small)[door]()


def test_only_the_labels_of_the_split_that_is_used_matter(small):
    model = Returning()
    data = Dataset("half", small.train, moved(small, 1).test)
    state = train(model, data, RECIPE, 0)
    evaluate(model, state, data.train)
    for size in (1, 3):
        with pytest.raises(ValueError, match="^data: label 3, but the model has 3 classes"):
            path_losses(model, state, state_of(model), data, ts=3, points_per_batch=size)


def test_labels_of_any_integer_type_are_the_same_labels(small):
    model, state = Returning(), state_of(Returning())
    wanted = evaluate(model, state, small.train)
    for kind in (torch.uint8, torch.int16, torch.int32):
        other = Split(small.train.x, small.train.y.to(kind))
        assert other.largest_label == 2
        assert evaluate(model, state, other) == wanted
    with pytest.raises(ValueError, match="y: labels are integers from 0 up, not -1"):
        moved(small, -1)
    for wrong in (small.train.y.double(), F.one_hot(small.train.y), small.train.y + 0j):
        with pytest.raises(ValueError, match="y: labels are integers from 0 in one dimension"):
            Split(small.train.x, wrong)


CHANGES = {
    "a tuple": (lambda logits: (logits, logits), "its output is of type tuple"),
    "a dict": (lambda logits: {"features": logits}, "its output is of type dict"),
    "None": (lambda logits: None, "its output is of type NoneType"),
    "a token at a time": (lambda logits: logits[:, None].expand(-1, 4, -1), r"\(\d+, 4, 3\)"),
    "no examples": (lambda logits: logits.mean(0), r"of shape \(3,\)"),
    "a loss": (lambda logits: logits.square().mean(), r"of shape \(\)"),
    "another number": (lambda logits: logits.repeat(2, 1), r"of shape \(\d+, 3\)"),
    "classes": (lambda logits: logits.argmax(1), "torch.int64 of shape"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("change", CHANGES)
def test_outputs_that_are_no_logits_are_the_same_error_everywhere(small, door, change):
    function, message = CHANGES[change]
    needed = r"^model: logits are needed, one tensor \(examples, classes\)"
    with pytest.raises(ValueError, match=f"{needed}.*{message}"):
        doors(small, function)[door]()


def test_statistics_are_refreshed_whatever_a_network_returns(small):
    "No labels are needed for running statistics, and no logits."
    class Pair(nn.BatchNorm1d):
        def forward(self, x):
            return {"normalised": super().forward(x), "input": x}
    norm = Pair(5)
    found = refresh_batchnorm(norm, norm.state_dict(), small)
    torch.testing.assert_close(found["running_mean"], small.train.x.mean(0))


# --- networks in half precision

@pytest.mark.parametrize("kind, scale", [
    (torch.half, 40.0), (torch.bfloat16, 1.0), (torch.bfloat16, 0.1)])
def test_losses_of_a_network_in_half_precision_are_summed_in_single(kind, scale):
    "2,000 losses of 130 nats exceed the largest number of half precision four times."
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2000, 5, generator=generator).to(kind), torch.arange(2000) % 3
    model = initialise(Returning, 0)
    model.load_state_dict({name: scale * w for name, w in model.state_dict().items()})
    state, data = state_of(model.to(kind)), Dataset("half", *2 * [Split(x, y)])
    with torch.no_grad():
        logits = model(x).double()
    right = F.cross_entropy(logits, y).item()
    curve = path_losses(model, state, state, data, ts=2)
    single = {name: w.float() for name, w in state.items()}
    of_batch = batch_loss(model, state)(single, x, y).item()
    exact = evaluate(Returning(), single, Split(x.float(), y))[0]
    found = [evaluate(model, state, data.train)[0], midpoint_loss(model, state, state, data),
             *curve.loss["train"], training_loss(model, x, y, Recipe()).item(),
             fit(model, data, Recipe(epochs=1, batch_size=2000, lr=0), 0)[1][0]]
    assert found == pytest.approx([right] * len(found), rel=1e-6)
    stacked = evaluate_stacked(model, [state], data.train)[0][0]  # its products are rounded elsewhere
    assert stacked == pytest.approx(right, rel=1e-4)
    assert of_batch == pytest.approx(exact, rel=1e-6), "its weights are taken to single precision"
    probs = average_predictions(model, [state], data.train)
    torch.testing.assert_close(probs, logits.softmax(1), rtol=0, atol=1e-12)


def test_a_network_in_double_keeps_its_precision(small):
    model = Returning().double()
    split = Split(small.train.x.double(), small.train.y)
    with torch.no_grad():
        right = F.cross_entropy(model(split.x), split.y).item()
    assert evaluate(model, state_of(model), split)[0] == pytest.approx(right, abs=1e-15)
    assert training_loss(model, split.x, split.y, Recipe()).dtype == torch.double


# --- numbers: NumPy's are as good as Python's

def measured(data, whole, real):
    "What every public function returns when its numbers are of these types; all bit for bit."
    model, a, b, c = (initialise(Returning, seed) for seed in range(4))
    a, b, c = map(state_of, (a, b, c))
    spec, plane = infer_spec(model, data.train.x[:2]), Plane(model, a, b, c)
    recipe = Recipe(epochs=whole(1), batch_size=whole(20), lr=real(0.125), milestones=(real(0.5),))
    def rng(): return generator(whole(3), "draws")
    norm = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm[2].reset_parameters()
    descent = dict(model=model, data=data, steps=whole(2), lr=real(0.125), batch_size=whole(10),
                   seed=whole(1))
    star = train_star(model, [a, b], data, recipe, seed=whole(2), rematch_every=whole(1),
                      segments_per_batch=whole(2), own_loss_weight=real(1), t_sampling=real(0.5))
    costs = inference_cost(model, data.train.x, members=whole(2), repeats=whole(1))
    return [
        config_key(dataclasses.asdict(recipe)), star.state, star.loss, type(star.seed),
        config_key(dataclasses.asdict(StarOptions(real(0.5), whole(2), own_loss_weight=real(1)))),
        train(model, data, recipe.replace(epochs=whole(2)), whole(3)),
        train_population(lambda: initialise(Returning, 0), data, recipe, [whole(0), whole(1)],
                         jobs=whole(1)),
        evaluate(model, a, data.train, batch_size=whole(7)),
        refresh_batchnorm(norm, norm.state_dict(), data, batch_size=whole(7)),
        path_losses(model, a, b, data, ts=whole(5)).loss["train"],
        path_losses(model, a, b, data, ts=[whole(0), real(0.5), whole(1)],
                    points_per_batch=whole(2)).ts,
        plane_grid(plane, steps=whole(3), margin=real(0.25)), plane_segments(plane, ts=whole(3)),
        repair(model, a, b, real(0.5), data),
        match_weights(spec, a, b, order="random", seed=whole(1), restarts=whole(1),
                      max_sweeps=whole(9)).permutation,
        match_many(spec, a, [b], seed=whole(1), max_sweeps=whole(9))[0].permutation,
        match_jointly(spec, [a, b], max_rounds=whole(3), tolerance=real(0.5)).permutations,
        Matcher(spec, [b], seed=whole(2)).match(a)[0].permutation,
        match_activations(spec, a, b, model=model, data=data, batch_size=whole(7)).permutation,
        match_sinkhorn(spec, a, b, cost="random", temperature=real(1), iterations=whole(3),
                       **descent).permutation,
        match_straight_through(spec, a, b, every=whole(1), **descent).permutation,
        sample_star_domain(a, [b], whole(3), rng(), t_sampling=real(0.5)).plan,
        sample_gaussian(a, [b], whole(3), rng()).plan,
        average_predictions(model, [a, b], data.train, batch_size=whole(7)),
        list(dropout_predictions(norm, norm.state_dict(), data.train, whole(2), whole(0),
                                 batch_size=whole(7))),
        uncertainty_metrics(PROBS, LABELS, bins=whole(5)), reliability(SCORES, whole(5)).to_numpy(),
        resampled_metrics(SCORES, resample_weights(whole(60), whole(4), whole(1)), whole(5)),
        interval(real(0.5), [0.5, 0.75], real(0.5)), with_temperature(PROBS, real(2)),
        with_temperature(PROBS, whole(2)), calibration_error([0.5], [1], whole(5)),
        {name: value for name, value in costs.items() if name != "seconds"},
        [p.shape for p in build("mlp", width=whole(4), depth=whole(2)).parameters()]]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return torch.equal(*(torch.nan_to_num(torch.as_tensor(part)) for part in (one, other)))
    return one == other and type(one) is type(other)


@pytest.mark.parametrize("whole, real", [
    (np.int64, np.float64), (np.int32, np.float32), (np.uint8, np.float16)])
def test_numbers_of_numpy_are_as_good_as_pythons(small, whole, real):
    for n, (one, other) in enumerate(zip(measured(small, int, float), measured(small, whole, real))):
        assert same(one, other), (n, one, other)


NO_WHOLE = (True, np.bool_(True), "3", 2.5, math.nan, math.inf, -1, None, torch.tensor(3),
            np.array(3), np.array([3]), [3])


@pytest.mark.parametrize("wrong", NO_WHOLE, ids=repr)
def test_what_is_no_whole_number_is_the_same_error_everywhere(small, wrong):
    model, a, b = Returning(), state_of(Returning()), state_of(Returning())
    spec, star_seed = infer_spec(model, small.train.x[:2]), generator(0, "draws")
    norm = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))
    dropped = partial(dropout_predictions, norm, norm.state_dict(), small.train)
    trained = dict(model=model, data=small)
    average = partial(average_predictions, model, [a], small.train)  # None: the fastest size
    calls = {
        "seed": [lambda: train(model, small, RECIPE, wrong), lambda: generator(wrong, "draws"),
                 lambda: train_star(model, [a], small, RECIPE, spec=spec, seed=wrong),
                 lambda: match_weights(spec, a, b, seed=wrong), lambda: dropped(2, wrong),
                 lambda: match_sinkhorn(spec, a, b, seed=wrong),
                 lambda: resample_weights(5, 5, wrong), lambda: initialise(Returning, wrong)],
        "batch_size": [lambda: match_activations(spec, a, b, batch_size=wrong, **trained),
                       lambda: average(0 if wrong is None else wrong),
                       lambda: dropped(2, 0, wrong)],
        "bins": [lambda: uncertainty_metrics(PROBS, LABELS, wrong), lambda: metrics_of(SCORES, wrong),
                 lambda: reliability(SCORES, wrong), lambda: calibration_error([0.5], [1], wrong),
                 lambda: resampled_metrics(SCORES, resample_weights(60, 2), wrong)],
        "n": [lambda: sample_star_domain(a, [b], wrong, star_seed), lambda: dropped(wrong, 0),
              lambda: sample_gaussian(a, [b], wrong, star_seed), lambda: resample_weights(wrong)],
        "steps": [lambda: match_sinkhorn(spec, a, b, steps=wrong),
                  lambda: match_straight_through(spec, a, b, steps=wrong, **trained)],
        "recipe.epochs": [lambda: Recipe(epochs=wrong)],
        "restarts": [lambda: match_weights(spec, a, b, restarts=wrong)],
        "max_sweeps": [lambda: match_many(spec, a, [b], max_sweeps=wrong)],
        "members": [lambda: inference_cost(model, small.train.x, members=wrong)],
    }
    for argument, functions in calls.items():
        for function in functions:
            with pytest.raises(ValueError, match=f"^{argument}: a whole number of at least [01] is"):
                function()
    if wrong != [3] and not (isinstance(wrong, np.ndarray) and wrong.ndim):
        with pytest.raises(ValueError, match="^ts: at least two points rising from 0 to 1"):
            path_losses(model, a, b, small, ts=wrong)


@pytest.mark.parametrize("points", [
    [0, math.nan, 1], [0, 0.5], [0.5, 1], [0, 0.6, 0.4, 1], [[0, 1]], ["a", "b"], [0, 1e-14, 1], []])
def test_points_that_do_not_rise_from_zero_to_one(small, points):
    state = state_of(Returning())
    with pytest.raises(ValueError, match="^ts: at least two points rising from 0 to 1"):
        path_losses(Returning(), state, state, small, ts=points)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf, "2", True, None, [2.0]])
def test_a_temperature_is_a_number_above_zero(temperature):
    spec = infer_spec(Returning(), torch.randn(2, 5))
    a, b = state_of(Returning()), state_of(Returning())
    for function in (lambda: with_temperature(PROBS, temperature),
                     lambda: match_sinkhorn(spec, a, b, temperature=temperature)):
        with pytest.raises(ValueError, match="^temperature: a number above 0 is needed, not"):
            function()


@pytest.mark.parametrize("temperature", [1e-320, 1e-3, 1e300])
def test_an_extreme_temperature_gives_probabilities(temperature):
    found = with_temperature(PROBS, temperature)
    assert (found.sum(1) - 1).abs().max() < 1e-12
    exact = torch.eye(4)[PROBS.argmax(1)] if temperature < 1e-2 else torch.full((60, 4), 0.25)
    torch.testing.assert_close(found, exact.double(), atol=1e-3, rtol=0)
