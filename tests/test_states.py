"""What is in a state: statistics, derived tensors, caches, ties and precision, each beside an independent value."""
import functools
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.optim.swa_utils import update_bn

from starlight_nb.barriers import Plane, loss_barrier, path_losses, plane_losses, repair
from starlight_nb.checks import check_model
from starlight_nb.data import Dataset, Split
from starlight_nb.evaluation import evaluate, interpolate, refresh_batchnorm, refresh_batchnorm_stacked
from starlight_nb.fusion import average, inference_cost
from starlight_nb.models import generator, initialise
from starlight_nb.star import train_star
from starlight_nb.states import forget_caches, load_tensors, state_for, state_of, working_copy
from starlight_nb.training import Recipe, train
from starlight_nb.training.networks import FlatModule


@pytest.fixture(scope="module")
def table():
    "400 examples of 8 numbers in two classes."
    x = torch.randn(400, 8, generator=generator(0, "table"))
    split = Split(x, (x[:, 0] + x[:, 1] > 0).long())
    return Dataset("table", split, Split(split.x[:50], split.y[:50]))


def two_states(make):
    return [state_of(initialise(make, seed)) for seed in (0, 1)]


def largest_difference(one, other):
    return float((one.double() - other.double()).abs().max())


# Statistics: PyTorch's own `update_bn` is the independent value.

class Mine(nn.Module):
    "A class of one's own over `F.batch_norm`."
    def __init__(self, units, function=F.batch_norm):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_var", torch.ones(units))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, training=self.training)


class Rows(nn.Module):
    "Keeps mean and variance as two rows of one buffer, and calls the function below `F.batch_norm`."
    def __init__(self, units):
        super().__init__()
        self.register_buffer("rows", torch.stack([torch.zeros(units), torch.ones(units)]))

    def forward(self, x):
        return torch.batch_norm(x, None, None, *self.rows, self.training, 0.1, 1e-5, False)


class ByHand(nn.Module):
    "Normalises by arithmetic of its own, with a momentum that nobody declares."
    def __init__(self, units):
        super().__init__()
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("variance", torch.ones(units))

    def forward(self, x):
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x.mean(0), x.var(0)
            self.mean = 0.7 * self.mean + 0.3 * mean.detach()
            self.variance.mul_(0.7).add_(0.3 * variance.detach())
        return (x - mean) / (variance + 1e-5).sqrt()


NORMS = {"own class": Mine, "rows": Rows, "by hand": ByHand, "sync": nn.SyncBatchNorm,
         "no momentum": partial(nn.BatchNorm1d, momentum=None), "lazy": lambda units: nn.LazyBatchNorm1d()}


def statistics(state, prefix):
    found = [t.flatten() for name, t in state.items() if name.startswith(prefix) and t.ndim and "weight" not in name
             and "bias" not in name]
    return torch.cat(found)


@pytest.mark.parametrize("kind", NORMS)
def test_statistics_are_measured_for_whatever_keeps_them(table, kind):
    model = nn.Sequential(nn.Linear(8, 6), NORMS[kind](6), nn.Linear(6, 2))
    model.train()(table.train.x[:4])
    right = nn.Sequential(model[0], nn.BatchNorm1d(6))
    update_bn(table.train.x.split(50), right)
    found = refresh_batchnorm(model, state_of(model), table, batch_size=50)
    expected = torch.cat([right[1].running_mean, right[1].running_var])
    torch.testing.assert_close(statistics(found, "1."), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, Mine, ByHand])
def test_a_norm_that_is_used_twice_counts_both_uses(table, norm):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.norm = nn.Linear(8, 6), nn.Linear(6, 6), norm(6)

        def forward(self, x):
            return self.norm(self.two(self.norm(self.one(x)).relu()))

    model = initialise(Twice, 0)
    one, other = refresh_batchnorm(model, state_of(model), table, batch_size=100), []
    for x in table.train.x.split(100):
        first = model.one(x)
        normed = (first - first.mean(0)) / (first.var(0, correction=int(norm is ByHand)) + 1e-5).sqrt()
        other += [torch.stack([h.mean(0), h.var(0)]) for h in (first, model.two(normed.relu()))]
    expected = torch.stack(other).mean(0).detach()
    torch.testing.assert_close(statistics(one, "norm."), expected.flatten(), rtol=1e-4, atol=1e-5)


def test_instance_norm_with_tracked_statistics_is_measured():
    x = 2 * torch.randn(40, 3, 5, generator=generator(0, "x")) + 1
    model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), nn.Flatten(), nn.Linear(15, 2))
    found = refresh_batchnorm(model, state_of(model), Split(x, torch.zeros(40).long()), batch_size=10)
    torch.testing.assert_close(found["0.running_mean"], x.mean((0, 2)))
    torch.testing.assert_close(found["0.running_var"], x.var(2).mean(0))


@pytest.mark.parametrize("size", [100, 200, 400])
def test_large_inputs_are_measured_in_batches_of_enough_examples(size):
    y = torch.arange(8) % 2
    x = 3 * torch.randn(8, 3, size, size, generator=generator(0, "x")) + y[:, None, None, None]
    model = nn.Sequential(nn.Conv2d(3, 4, 7, stride=8), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = refresh_batchnorm(model, state_of(model), Split(x, y))
    activations = model[0](x).detach()
    torch.testing.assert_close(found["1.running_mean"], activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["1.running_var"], activations.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_no_example_is_left_out_and_none_is_measured_alone(table):
    x = table.train.x[:201]
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2))
    found = refresh_batchnorm(model, state_of(model), Split(x, table.train.y[:201]), batch_size=100)
    torch.testing.assert_close(found["0.running_mean"], x.mean(0))
    with pytest.raises(ValueError, match="batch_size: at least 2 examples"):
        refresh_batchnorm(model, state_of(model), table, batch_size=1)
    with pytest.raises(ValueError, match="data: at least two examples"):
        refresh_batchnorm(model, state_of(model), Split(x[:1], table.train.y[:1]))


@pytest.mark.parametrize("dtype, error", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_statistics_in_low_precision_are_averaged_in_single_precision(table, dtype, error):
    x = table.train.x.to(dtype)
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2)).to(dtype)
    found = refresh_batchnorm(model, state_of(model), Split(x, table.train.y), batch_size=4)["0.running_var"]
    expected = torch.stack([part.var(0) for part in x.double().split(4)]).mean(0)
    assert found.dtype == dtype and largest_difference(found, expected) < error * expected.max()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, Mine, ByHand])
def test_stacked_and_single_evaluations_agree(table, norm):
    make = partial(lambda: nn.Sequential(nn.Linear(8, 6), norm(6), nn.ReLU(), nn.Linear(6, 2)))
    states = two_states(make)
    stacked = refresh_batchnorm_stacked(make(), states, table)
    for one, state in zip(stacked, states):
        torch.testing.assert_close(one, refresh_batchnorm(make(), state, table), rtol=1e-4, atol=1e-5)


class Slices(nn.Module):
    "Two normalisations whose statistics are rows of one buffer."
    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(2, 6))
        self.register_buffer("variance", torch.ones(2, 6))

    def forward(self, x):
        for k, layer in enumerate((self.one, self.two)):
            x = F.batch_norm(layer(x), self.mean[k], self.variance[k], training=self.training).relu()
        return self.out(x)


def test_rows_of_one_buffer_are_told_apart_in_a_stack(table):
    a, b = two_states(Slices)
    one, other = (path_losses(Slices(), a, b, table, ts=3, points_per_batch=n).loss["train"] for n in (1, 3))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_statistics_outside_of_the_state_are_refused(table):
    class Outside(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)
            self.mean, self.variance = torch.zeros(2), torch.ones(2)

        def forward(self, x):
            return F.batch_norm(super().forward(x), self.mean, self.variance, training=self.training)

    with pytest.raises(ValueError, match="running statistics that are not in the model's state"):
        path_losses(Outside(), *two_states(Outside), table, ts=3)


def test_a_running_mean_with_a_count_of_its_own_starts_anew(table):
    class Counted(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)
            self.register_buffer("count", torch.tensor(12_000.0))
            self.register_buffer("mean", torch.ones(8))

        def forward(self, x):
            if self.training:
                self.count += len(x)
                self.mean += (x.mean(0) - self.mean) * len(x) / self.count
            return super().forward(x - self.mean)

    found = refresh_batchnorm(Counted(), state_of(Counted()), table)
    torch.testing.assert_close(found["mean"], table.train.x.mean(0), rtol=1e-4, atol=1e-5)
    assert found["count"] == 12_000


# Derived tensors: the singular value decomposition is the independent value.

class OwnPowerIteration(nn.Module):
    "Spectral normalisation by hand: the vector is a parameter that no optimiser trains."
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.vector = nn.Parameter(F.normalize(torch.randn(6), dim=0), requires_grad=False)
        self.out = nn.Linear(6, 2)

    def effective(self):
        right = F.normalize(self.weight.detach().T @ self.vector, dim=0)
        if self.training:
            self.vector.data = F.normalize(self.weight.detach() @ right, dim=0)
        return self.weight / (self.vector @ self.weight @ right)

    def forward(self, x):
        return self.out((x @ self.effective().T).relu())


def spectral(norm):
    return nn.Sequential(norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))


def spectral_conv():
    conv = parametrizations.spectral_norm(nn.Conv1d(2, 5, 3))
    return nn.Sequential(nn.Unflatten(1, (2, 4)), conv, nn.Flatten(), nn.Linear(10, 2))


class FromOutside(nn.Module):
    "Spectral normalisation as wrappers write it: the vector belongs to the layer, the wrapper updates it."
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        layer.weight_bar = nn.Parameter(layer.weight.data.clone())
        layer.register_buffer("u", F.normalize(torch.randn(len(layer.weight)), dim=0))
        del layer._parameters["weight"]

    def forward(self, x):
        weight = self.layer.weight_bar
        right = F.normalize(weight.detach().T @ self.layer.u, dim=0)
        self.layer.u.data = F.normalize(weight.detach() @ right, dim=0)
        self.layer.weight = weight / (self.layer.u @ weight @ right)
        return self.layer(x)


def test_vectors_that_a_wrapper_updates_are_right(table):
    def make():
        return nn.Sequential(FromOutside(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))
    a, b = two_states(make)
    middle = interpolate(a, b, 0.5)
    weight = middle["0.layer.weight_bar"]
    weight = weight / torch.linalg.matrix_norm(weight, 2)
    hidden = (table.train.x @ weight.T + middle["0.layer.bias"]).relu()
    right = F.cross_entropy(hidden @ middle["2.weight"].T + middle["2.bias"], table.train.y).item()
    assert abs(path_losses(make(), a, b, table, ts=3).loss["train"][1] - right) < 1e-4


SPECTRAL = {
    "parametrization": (partial(spectral, parametrizations.spectral_norm), "0.parametrizations.weight.original"),
    "hook": (partial(spectral, old_spectral_norm), "0.weight_orig"),
    "convolution": (spectral_conv, "1.parametrizations.weight.original"),
    "own class": (OwnPowerIteration, "weight")}


def exact_logits(kind, state, x):
    "The outputs with the weight divided by its largest singular value."
    weight = state[SPECTRAL[kind][1]]
    weight = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
    if kind == "convolution":
        hidden = F.conv1d(x.unflatten(1, (2, 4)), weight, state["1.bias"]).flatten(1)
        return hidden @ state["3.weight"].T + state["3.bias"]
    own = kind == "own class"
    hidden = (x @ weight.T + (0 if own else state["0.bias"])).relu()
    return hidden @ state["out.weight" if own else "2.weight"].T + state["out.bias" if own else "2.bias"]


@pytest.mark.parametrize("kind", SPECTRAL)
@pytest.mark.parametrize("refresh", [True, False])
def test_spectral_norms_are_right_at_every_interior_point(table, kind, refresh):
    make = SPECTRAL[kind][0]
    a, b = two_states(make)
    curve = path_losses(make(), a, b, table, ts=5, refresh=refresh)
    for n, t in enumerate(curve.ts[1:-1], 1):
        logits = exact_logits(kind, interpolate(a, b, t), table.train.x)
        right = F.cross_entropy(logits, table.train.y).item()
        assert abs(curve.loss["train"][n] - right) < 1e-4


def test_averages_and_planes_of_spectral_norms_are_right(table):
    make, name = SPECTRAL["parametrization"]
    a, b, c = (state_of(initialise(make, seed)) for seed in range(3))
    mean = average([a, b, c])
    right = F.cross_entropy(exact_logits("parametrization", mean, table.train.x), table.train.y).item()
    refreshed = refresh_batchnorm(make(), mean, table)
    assert abs(evaluate(make(), refreshed, table.train)[0] - right) < 1e-4
    plane = Plane(make(), a, b, c)
    centre = plane.corners.mean(0)
    assert abs(plane_losses(plane, table, centre[None])[0] - right) < 1e-4


def test_training_on_segments_divides_by_the_right_singular_value(table):
    make, name = SPECTRAL["parametrization"]
    network = FlatModule(initialise(make, 0))
    network.vector.normal_(generator=generator(0, "jump"))
    network.derive(table.train.x)
    loss = network.backward(table.train.x, table.train.y).item()
    logits = exact_logits("parametrization", network.states()[0], table.train.x)
    assert abs(loss - F.cross_entropy(logits, table.train.y).item()) < 1e-4
    assert network.module.training and all(module.training for module in network.module.modules())


def test_a_count_of_steps_is_not_derived_from_weights(table):
    class Counts(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x):
            if self.training:
                self.steps += 1
            return super().forward(x) + 0 * self.steps

    state = state_of(Counts()) | {"steps": torch.tensor([7.0])}
    assert refresh_batchnorm(Counts(), state, table)["steps"].item() == 7


def test_statistics_of_another_rule_are_left_as_they_are_and_named(table):
    class Largest(nn.Linear):
        "Divides by the largest input that it has seen in training."
        def __init__(self):
            super().__init__(8, 2)
            self.register_buffer("largest", torch.ones(1))

        def forward(self, x):
            if self.training:
                self.largest = torch.maximum(self.largest, x.abs().max())
            return super().forward(x / self.largest)

    state = state_of(Largest()) | {"largest": torch.tensor([7.0])}
    assert refresh_batchnorm(Largest(), state, table)["largest"].item() == 7
    frame = check_model(Largest(), table.train.x[:8]).to_frame()
    assert "largest" in frame[frame.verdict == "wrong"].finding.item()


def test_the_check_of_a_model_compares_statistics_with_pytorchs(table):
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    report = check_model(model, table.train.x[:8], table)
    assert report.ok and {"measured statistics", "permutation", "matching"} <= set(report.to_frame().what)
    assert report.spec.groups == {"0": 6}
    labels = Split(table.train.x, table.train.y + 1)
    wrong = check_model(model, table.train.x[:8], labels)
    assert not wrong.ok and "label 2, but the model has 2 classes" in repr(wrong)


# Caches

class CachedWeight(nn.Linear):
    "Caches the exponential of its weight, in the place that `where` names."
    def __init__(self, where):
        super().__init__(8, 2)
        self.where, self.ready, self.store = where, False, {}
        if where == "buffer":
            self.register_buffer("kept", None, persistent=False)

    def exponential(self):
        if self.where == "dict":
            return self.store.setdefault("w", self.weight.exp())
        if self.where == "array":
            if "w" not in self.store:
                self.store["w"] = self.weight.exp().detach().numpy().copy()
            return torch.from_numpy(self.store["w"])
        if self.where == "tuple":
            if not self.ready:
                self.ready = (self.weight.dtype, self.weight.exp().detach())
            return self.ready[1]
        if self.where == "list":
            kept = self.store.setdefault("all", [])
            if not kept:
                kept.append(self.weight.exp().detach())
            return kept[0]
        if self.where == "dirty":
            if not self.ready:
                self.kept, self.dirty, self.ready = self.weight.exp().detach(), False, True
            return self.kept
        if self.where == "attribute":
            if not hasattr(self, "kept"):
                self.kept = self.weight.exp().detach()
            return self.kept
        if self.where == "buffer":
            if self.kept is None:
                self.kept = self.weight.exp().detach()
            return self.kept
        if self.where == "flag":
            if not self.ready:
                self.kept, self.ready = self.weight.exp().detach(), True
            return self.kept
        if self.where == "function":
            return self.by_function()
        return self.by_property

    @functools.lru_cache
    def by_function(self):
        return self.weight.exp()

    @functools.cached_property
    def by_property(self):
        return self.weight.exp()

    def forward(self, x):
        return x @ self.exponential().T


PLACES = ["dict", "attribute", "buffer", "flag", "function", "property", "array", "tuple", "list", "dirty"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("used", [False, True])
def test_a_cache_of_weights_never_goes_stale(table, where, used):
    model = CachedWeight(where)
    if used:
        model.eval()(table.train.x[:2])
    a, b = two_states(partial(nn.Linear, 8, 2))
    curve = path_losses(model, a, b, table, ts=3)
    for n, t in enumerate(curve.ts):
        logits = table.train.x @ interpolate(a, b, t)["weight"].exp().T
        torch.testing.assert_close(curve.loss["train"][n], F.cross_entropy(logits, table.train.y).item())


def test_constants_beside_the_state_are_kept(table):
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)
            self.scale, self.table = torch.tensor(3.0), {"shift": torch.ones(2)}

        def forward(self, x):
            scaled = super().forward(x) if self.scale is None else self.scale * super().forward(x)
            return scaled + self.table.get("shift", 0)

    model, x = Scaled(), table.train.x[:4]
    copied = working_copy(model)
    forget_caches(copied, lambda: copied(x))
    assert torch.equal(copied(x), model(x)) and copied.training


def test_weights_that_are_merged_in_evaluation_mode_are_loaded_unmerged(table):
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.down, self.up = nn.Linear(8, 2), nn.Linear(8, 1, bias=False), nn.Linear(1, 2, bias=False)
            self.merged = False

        def train(self, mode=True):
            if mode == self.merged:
                with torch.no_grad():
                    self.base.weight += (-1 if mode else 1) * self.up.weight @ self.down.weight
            self.merged = not mode
            return super().train(mode)

        def forward(self, x):
            return self.base(x) if self.merged else self.base(x) + self.up(self.down(x))

    a, b = two_states(LowRank)
    curve = path_losses(LowRank().eval(), a, b, table, ts=3)
    for n, t in enumerate(curve.ts):
        model = LowRank()
        model.load_state_dict(interpolate(a, b, t))
        right = F.cross_entropy(model(table.train.x), table.train.y).item()
        assert abs(curve.loss["train"][n] - right) < 1e-5


# Copies

class KeepsActivation(nn.Sequential):
    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def kept_activation():
    return KeepsActivation(nn.Linear(8, 4), nn.Linear(4, 2))


def pruned():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(8, 4)), nn.Linear(4, 2))


def with_lock():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    model.locks = {"one": [threading.Lock()]}
    return model


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        assert state == {"version": 3}


COPIED = {"activation": kept_activation, "pruned": pruned, "weight norm": old_weight_norm, "lock": with_lock,
          "extra state": partial(Extra, 8, 2)}


@pytest.mark.parametrize("kind", COPIED)
def test_models_that_deepcopy_refuses_are_evaluated_and_trained(table, kind):
    model = initialise(COPIED[kind], 0)
    logits = model(table.train.x)
    loss = F.cross_entropy(logits, table.train.y)
    loss.backward()
    assert abs(evaluate(model, state_of(model), table.train)[0] - loss.item()) < 1e-6
    trained = train(model, table, Recipe(epochs=2, batch_size=50, lr=0.1), seed=0)
    assert evaluate(model, trained, table.train)[0] < loss.item()
    assert torch.equal(model(table.train.x), logits)


@pytest.mark.parametrize("model, message", [
    (nn.Linear(2, 2, device="meta"), "model: 'weight' is on the device meta"),
    (nn.LazyLinear(2), "model: 'weight' has no shape yet")])
def test_models_without_values_are_refused_by_name(table, model, message):
    with pytest.raises(ValueError, match=message):
        working_copy(model)


class Remembers(nn.Module):
    "A function that it keeps remembers the model that it was made in."
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 2)
        self.head = lambda x: self.out(x)

    def forward(self, x):
        return self.head(x)


def replaced_forward():
    model = nn.Linear(8, 2)
    old = model.forward
    model.forward = lambda x: 2 * old(x)
    return model


@pytest.mark.parametrize("make", [Remembers, replaced_forward])
def test_a_model_whose_copy_would_compute_with_the_original_is_refused(table, make):
    with pytest.raises(ValueError, match="model: a copy of it still computes with the model's own"):
        path_losses(make(), *two_states(make), table, ts=3)


def test_a_module_that_refuses_to_be_copied_is_not_shared(table):
    class Refuses(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    model = nn.Sequential(nn.Linear(8, 4), Refuses(4, 2))
    before = state_of(model)
    other = {name: tensor + 1 for name, tensor in before.items()}
    logits = (table.train.x @ other["0.weight"].T + other["0.bias"]) @ other["1.weight"].T + other["1.bias"]
    right = F.cross_entropy(logits, table.train.y).item()
    assert abs(evaluate(model, other, table.train)[0] - right) < 1e-4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_compiled_model_is_measured_as_the_model_itself(table):
    def make():
        return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    a, b = two_states(make)
    right = path_losses(make(), a, b, table, ts=3).loss["train"]
    compiled = torch.compile(make(), backend="eager")
    ends = [{f"_orig_mod.{name}": tensor for name, tensor in state.items()} for state in (a, b)]
    np.testing.assert_allclose(path_losses(compiled, *ends, table, ts=3).loss["train"], right, rtol=1e-6)


def test_a_scripted_model_is_refused(table):
    model = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="model: a scripted module"):
        path_losses(torch.jit.script(model), *two_states(partial(nn.Linear, 8, 2)), table, ts=3)


# Numbers that are not single-precision reals

def test_inputs_of_another_type_than_the_weights_are_named(table):
    model = nn.Linear(8, 2).half()
    with pytest.raises(ValueError, match="data: the inputs are torch.float32 of .*, the model's weights torch.float16"):
        evaluate(model, state_of(model), table.train)


@pytest.mark.parametrize("a, b, wider", [
    (torch.float16, torch.float32, torch.float32), (torch.bfloat16, torch.float16, torch.float32),
    (torch.float32, torch.float64, torch.float64), (torch.complex64, torch.float64, torch.complex128)])
def test_mixed_states_give_points_in_the_wider_type(a, b, wider):
    one, other = {"w": torch.tensor([1.0, -2.0]).to(a)}, {"w": torch.tensor([3.0, 1.0]).to(b)}
    for t in (0, 0.25, 1):
        point = interpolate(one, other, t)["w"]
        expected = (1 - t) * one["w"].to(torch.complex128) + t * other["w"].to(torch.complex128)
        assert point.dtype == wider and torch.equal(point.to(torch.complex128), expected)
    assert average([one, other])["w"].dtype == wider


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter, self.out = nn.Parameter(torch.randn(5, dtype=torch.cfloat)), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=8).relu())


def test_complex_parameters_are_mixed_as_complex_numbers(table):
    a, b, c = (state_of(initialise(Fourier, seed)) for seed in range(3))
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    for found in (interpolate(a, b, 0.5), average([a, b])):
        torch.testing.assert_close(found, middle)
    model = Fourier()
    model.load_state_dict(middle)
    right = F.cross_entropy(model(table.train.x), table.train.y).item()
    assert abs(path_losses(Fourier(), a, b, table, ts=3).loss["train"][1] - right) < 1e-6
    plane = Plane(Fourier(), a, b, c)
    distance = sum((a[name] - b[name]).abs().square().sum() for name in a).sqrt()
    assert abs(plane.corners[1, 0] - distance) < 1e-5
    torch.testing.assert_close(plane.state(*plane.corners[2]), c, rtol=1e-5, atol=1e-5)


def test_whole_numbers_that_differ_have_nothing_between_them():
    states = [{"order": torch.tensor(order), "batches": torch.tensor(n)} for n, order in enumerate(([0, 1], [1, 0]))]
    with pytest.raises(ValueError, match="state_b: 'order' holds other whole numbers"):
        interpolate(*states, 0.5)
    assert interpolate(states[0], states[1] | {"order": states[0]["order"]}, 0.5)["batches"] == 0


def test_constants_that_differ_are_named(table):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)
            self.register_buffer("mask", torch.bernoulli(torch.full((8,), 0.5)))

        def forward(self, x):
            return super().forward(x * self.mask)

    with pytest.warns(UserWarning, match="'mask': neither weights nor measured"):
        path_losses(Masked(), *two_states(Masked), table, ts=3)


# Tied tensors

class TiedWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.middle, self.out = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(self.middle(self.words(x).mean(1)).relu())


class TiedLayer(nn.Module):
    "One layer, with its normalisation, under two names."
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.second, self.words, self.out = self.first, nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, x):
        return self.out(self.second(self.first(self.words(x).mean(1)).relu()))


@pytest.fixture(scope="module")
def sentences():
    x = torch.randint(0, 9, (40, 5), generator=generator(0, "words"))
    return Dataset("words", Split(x, x[:, 0]), Split(x, x[:, 0]))


@pytest.mark.parametrize("make", [TiedWords, TiedLayer])
def test_tied_tensors_are_one_tensor_however_they_are_given(sentences, make):
    a, b = two_states(make)
    first = dict(make().named_parameters()) | dict(make().named_buffers())
    one = path_losses(make(), a, b, sentences, ts=3)
    short = [{name: tensor for name, tensor in state.items() if name in first} for state in (a, b)]
    assert all(len(state) < len(a) for state in short)
    for options in (dict(), dict(points_per_batch=1), dict(points_per_batch=3)):
        other = path_losses(make(), *short, sentences, ts=3, **options)
        np.testing.assert_allclose(other.loss["train"], one.loss["train"], rtol=1e-5)


def test_repair_leaves_tied_tensors_tied(sentences):
    a, b = two_states(TiedWords)
    state = repair(TiedWords(), a, b, 0.5, sentences)
    assert torch.equal(state["out.weight"], state["words.weight"])
    assert not torch.equal(state["middle.weight"], interpolate(a, b, 0.5)["middle.weight"])
    model = TiedWords()
    load_tensors(model, state)
    right = F.cross_entropy(model(sentences.train.x), sentences.train.y).item()
    assert abs(path_losses(TiedWords(), a, b, sentences, ts=3, repair=True).loss["train"][1] - right) < 1e-6


def test_a_tied_tensor_is_counted_once():
    model = TiedWords()
    assert inference_cost(model, torch.zeros(2, 5).long(), repeats=1)["bytes"] == 4 * (9 * 8 + 8 * 8 + 8 + 9)


def test_two_values_for_one_tensor_are_refused():
    state = state_of(TiedWords())
    with pytest.raises(ValueError, match="state: 'out.weight' and 'words.weight' are one tensor in the network"):
        state_for(TiedWords(), state | {"out.weight": state["out.weight"] + 1})


@pytest.mark.parametrize("given", [lambda model: dict(model.named_parameters()),
                                   lambda model: model.state_dict(keep_vars=True)])
def test_states_with_a_gradient_history_serve_everywhere(table, given):
    def make():
        return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    models = [initialise(make, seed) for seed in (0, 1)]
    star = train_star(initialise(make, 2), [given(model) for model in models], table,
                      Recipe(epochs=1, batch_size=50, lr=0.1))
    assert loss_barrier(path_losses(make(), given(models[0]), star.state, table, ts=3)) >= 0
    assert not any(tensor.requires_grad for tensor in star.state.values())


@pytest.mark.parametrize("wrap, words", [
    (lambda state: {"model": state, "epoch": 3}, r"under 'model'; pass state_b\['model'\]"),
    (lambda state: {"ema": {f"module.{name}": own for name, own in state.items()}}, "under 'ema'"),
    (lambda state: {f"module.{name}": own for name, own in state.items()},
     "its names begin with 'module.'; pass it without"),
    (lambda state: {f"_orig_mod.net.{name}": own for name, own in state.items()},
     "its names begin with '_orig_mod.net.'"),
    (lambda state: torch.nn.Linear(2, 2), r"not Linear; pass its `state_dict\(\)`"),
    (lambda state: [state], "not list")])
def test_a_state_in_something_else_is_told_with_what_to_pass(wrap, words, small):
    from starlight_nb import barrier_between, infer_spec, match_weights
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    spec, state = infer_spec(model, small.train.x[:2]), model.state_dict()
    with pytest.raises(ValueError, match=f"state_b: .*{words}"):
        match_weights(spec, state, wrap(state))
    with pytest.raises(ValueError, match=f"state_b: .*{words}"):
        barrier_between(model, state, wrap(state), small)
