"""Barriers: what is known about them without training anything."""
import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from starlight_nb import states
from starlight_nb.barriers import (
    PathCurve, Plane, accuracy_barrier, loss_barrier, path_losses, plane_losses,
    repair, unit_statistics)
from starlight_nb.evaluation import evaluate, interpolate, refresh_batchnorm
from starlight_nb.data import Dataset, Split, Stream
from starlight_nb.models import build, initialise
from starlight_nb.training import state_of, train


def test_from_a_network_to_itself_there_is_no_barrier(digits, recipe, solutions, make_mlp):
    curve = path_losses(make_mlp(), solutions[0], solutions[0], digits)
    norm = initialise(partial(build, "resnet", width=4), 0)
    with_norm = path_losses(norm, *[train(norm, digits, recipe, 0)] * 2, digits)
    for own in (curve, with_norm):
        for split in ("train", "test"):
            assert loss_barrier(own, split) == accuracy_barrier(own, split) == 0


@pytest.mark.parametrize("ts", [11, [0, 0.3, 1]])
def test_the_ends_of_a_path_are_the_models_own_values(digits, recipe, ts):
    model = initialise(partial(build, "resnet", width=4), 0)
    a, b = (train(model, digits, recipe, seed) for seed in (0, 1))
    curve = path_losses(model, a, b, digits, ts)
    for end, state in ((0, a), (-1, b)):
        for split, part in digits.splits.items():
            assert (curve.loss[split][end], curve.accuracy[split][end]) == evaluate(
                model, state, part
            )


class Normed(nn.Module):
    "A network with a normalisation."
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    def forward(self, x): return self.layers(x)


class Noisy(Normed):
    "The same, which also draws a random number in each pass."
    def forward(self, x): return self.layers(x) + 0 * torch.rand(())


def unsuited(small, make=Normed, dtype=torch.float):
    "A network, two states whose statistics do not suit the data, and the data."
    model = initialise(make, 0).to(dtype)
    ends = [state_of(initialise(make, seed).to(dtype)) for seed in (1, 2)]
    ends = [state | {"layers.1.running_mean": state["layers.1.running_mean"] - 30} for state in ends]
    data = Dataset("own", *(Split(part.x.to(dtype), part.y) for part in (small.train, small.test)))
    return model, ends, data


def told(call):
    "The warnings of a call, as text."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, dict(points_per_batch=3), dict(repair=True), dict(refresh=False)])
def test_statistics_that_do_not_suit_the_data_are_told(small, dtype, options):
    model, ends, data = unsuited(small, dtype=dtype)
    measured = [refresh_batchnorm(model, state, data) for state in ends]
    found = told(lambda: path_losses(model, *ends, data, ts=3, **options))
    if not options.get("refresh", True): assert all("a guess among 3 classes" in text for text in found)
    else:
        for name, text in zip(("state_a", "state_b"), found, strict=True):
            assert text.startswith(f"{name}: with its stored normalisation statistics the training loss is ")
            assert f"a barrier may be hidden. refresh_batchnorm(model, {name}, data) returns a state with measured ones; where they did" in text
    assert not told(lambda: path_losses(model, *measured, data, ts=3, **options))
    assert not told(lambda: path_losses(model, ends[0], ends[0], data, ts=3, **options))


def test_the_look_at_statistics_reads_little_and_changes_nothing(small, monkeypatch):
    model, ends, data = unsuited(small, Noisy)
    read = []
    def loader():
        for start in range(0, len(data.train), 10):
            read.append(start)
            yield data.train.x[start:start + 10], data.train.y[start:start + 10]
    def measured():
        "The losses on a path, the state of the random numbers afterwards, and how often batches were read."
        torch.manual_seed(0)
        read.clear()
        curve = path_losses(model, *ends, Dataset("own", Stream(loader), data.test), ts=3)
        return curve.loss, torch.get_rng_state(), len(read)
    with pytest.warns(UserWarning, match="state_b: with its stored"): losses, state, reads = measured()
    monkeypatch.setattr("starlight_nb.barriers.warn_of_statistics", lambda *arguments: set())
    expected, usual, usual_reads = measured()
    for split in data.splits: np.testing.assert_array_equal(losses[split], expected[split])
    assert torch.equal(state, usual) and reads <= usual_reads + len(data.train) // 10


def test_a_plane_tells_of_unsuited_statistics_too(small):
    model, ends, data = unsuited(small)
    third = state_of(initialise(Normed, 3))
    found = told(lambda: plane_losses(Plane(model, *ends, third), data, np.array([[0.1, 0.2]])))
    assert [text[:8] for text in found if "stored" in text][:2] == ["state_a:", "state_b:"]


def test_a_convex_loss_has_no_barrier(small):
    "Softmax regression is convex in its weights, so every path lies below its chord."
    model = nn.Linear(5, 3)
    a, b = ({k: torch.randn(v.shape) for k, v in model.state_dict().items()} for _ in range(2))
    assert loss_barrier(path_losses(model, a, b, small)) < 1e-6


def test_a_barrier_is_the_same_from_both_sides(digits, solutions, make_mlp):
    there, back = (
        path_losses(make_mlp(), *pair, digits) for pair in (solutions[:2], solutions[1::-1])
    )
    assert loss_barrier(there) == pytest.approx(loss_barrier(back), rel=1e-5)
    assert loss_barrier(there) > 0.01


@given(st.lists(st.floats(0, 10), min_size=2, max_size=20))
@settings(deadline=None)
def test_the_barrier_of_a_curve(values):
    values, ts = np.array(values), np.linspace(0, 1, len(values))
    barrier = loss_barrier(PathCurve(ts, {"train": values}, {}))
    assert 0 <= barrier <= max(values) - min(values[0], values[-1]) + 1e-9
    shifted = loss_barrier(PathCurve(ts, {"train": values + 5 - 2 * ts}, {}))
    assert shifted == pytest.approx(barrier, abs=1e-9), "a straight line added changes nothing"


@given(st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_interpolation_is_affine_and_leaves_counters(t):
    a, b = ({"w": torch.randn(4).double(), "count": torch.tensor(n)} for n in (3, 8))
    point = interpolate(a, b, t)
    torch.testing.assert_close(point["w"], (1 - t) * a["w"] + t * b["w"])
    assert point["count"] == (8 if t == 1 else 3)


def test_refreshing_ignores_dropout_and_what_was_there(digits):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.9), nn.BatchNorm1d(8), nn.Linear(8, 10)
    )
    state = state_of(model)
    dirty = state | {"3.running_mean": torch.full((8,), 9.0)}
    fresh, again = (refresh_batchnorm(model, s, digits) for s in (state, dirty))
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)
    hidden = digits.train.x.flatten(1) @ state["1.weight"].T + state["1.bias"]
    torch.testing.assert_close(fresh["3.running_mean"], hidden.mean(0), atol=1e-5, rtol=1e-4)
    assert dirty["3.running_mean"][0] == 9 and model[3].momentum == 0.1 and model.training


def test_without_refreshed_statistics_a_normalised_path_is_another(digits, recipe):
    model = initialise(partial(build, "resnet", width=4), 0)
    a, b = (train(model, digits, recipe, seed) for seed in (0, 1))
    with_, without = (
        path_losses(model, a, b, digits, refresh=refresh) for refresh in (True, False)
    )
    assert not np.allclose(with_.loss["train"][1:-1], without.loss["train"][1:-1])
    assert with_.loss["train"][0] == without.loss["train"][0]


class Cached(nn.Linear):
    "Keeps twice its weights, and a buffer that is no part of its state, and counts its calls."
    def __init__(self):
        super().__init__(64, 10)
        self.register_buffer("doubled", None, persistent=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        if self.doubled is None:
            self.doubled = 2 * self.weight.detach()
        return nn.functional.linear(x.flatten(1), self.doubled, self.bias)


def test_what_a_network_keeps_outside_its_state_does_not_reach_the_next_point(digits):
    model, (a, b) = Cached(), (state_of(initialise(Cached, seed)) for seed in (0, 1))
    curve = path_losses(model, a, b, digits, ts=5)
    for n, t in enumerate(curve.ts):
        for split, part in digits.splits.items():
            own = evaluate(Cached(), interpolate(a, b, t), part)
            assert (curve.loss[split][n], curve.accuracy[split][n]) == own
    assert model.calls == 0 and model.doubled is None and model.seen == 0


def test_a_path_takes_one_copy_of_the_model(digits, recipe, monkeypatch):
    model, copies, original = initialise(partial(build, "resnet", width=4), 0), [], copy.deepcopy
    a, b = (train(model, digits, recipe, seed) for seed in (0, 1))

    def counted(thing, *memo):
        copies.append(thing)
        return original(thing, *memo)
    monkeypatch.setattr(states.copies.copy, "deepcopy", counted)
    for options in ({}, dict(repair=True), dict(points_per_batch=11)):
        path_losses(model, a, b, digits, **options)
        assert sum(thing is model for thing in copies) == 1
        copies.clear()


def test_a_tidy_frame_has_every_value(digits, solutions, make_mlp):
    frame = path_losses(make_mlp(), *solutions[:2], digits, ts=5).to_frame()
    assert list(frame.columns) == ["split", "metric", "t", "value"] and len(frame) == 2 * 2 * 5
    assert sorted(frame.t.unique()) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("ts", [1, [0.1, 1], [0, 0.9], [0, 0.5, 0.5, 1], []])
def test_bad_grids_are_refused(ts, digits, solutions, make_mlp):
    with pytest.raises(ValueError, match="ts: at least two points rising from 0 to 1"):
        path_losses(make_mlp(), *solutions[:2], digits, ts=ts)


def test_bad_input_is_named(digits, solutions, make_mlp):
    other = state_of(build("mlp", depth=2, width=9))
    with pytest.raises(ValueError, match="state_b: '1.weight' has the shape"):
        path_losses(make_mlp(), solutions[0], other, digits)
    broken = solutions[0] | {"1.bias": torch.full((8,), torch.nan)}
    with pytest.raises(FloatingPointError, match="curve: the value at t = 0.1 is nan"):
        loss_barrier(path_losses(make_mlp(), solutions[1], broken, digits))
    with pytest.raises(ValueError, match=r"split: 'val' is not known \(accepted: test, train\)"):
        loss_barrier(path_losses(make_mlp(), *solutions[:2], digits), "val")


REPAIRABLE = {
    "chain": partial(build, "mlp", depth=4),
    "convolutions": partial(build, "vgg11", width=4, channels_in=1, dropout=0.5),
    "biases and norms": partial(build, "wideresnet", depth=10, channels_in=1),
}


@pytest.mark.parametrize("kind", REPAIRABLE)
def test_repaired_units_have_the_statistics_between_the_two_networks(digits, kind):
    small = Dataset(
        "part",
        Split(digits.train.x[:400], digits.train.y[:400]),
        Split(digits.test.x[:50], digits.test.y[:50]),
    )
    model = REPAIRABLE[kind]()
    a, b = (
        refresh_batchnorm(model, state_of(initialise(REPAIRABLE[kind], seed)), small)
        for seed in (0, 1)
    )
    copies = [{k: v.clone() for k, v in s.items()} for s in (a, b)]
    ends = [unit_statistics(model, state, small) for state in (a, b)]
    middle = unit_statistics(model, repair(model, a, b, 0.25, small), small)
    hidden = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][
        :-1
    ]
    assert list(middle) == hidden, "all but the last layer"
    for name, (mean, deviation) in middle.items():
        wanted = torch.lerp(ends[0][name], ends[1][name], 0.25)
        alive = wanted[1] > 1e-4 * wanted[0].abs()
        assert alive.any(), name
        assert torch.allclose(deviation[alive], wanted[1][alive], rtol=0.05), name
        assert torch.allclose(mean, wanted[0], atol=float(0.05 * wanted[1].max() + 1e-6)), name
    assert all(torch.equal(s[k], c[k]) for s, c in zip((a, b), copies) for k in s)


def test_repair_leaves_ends_and_networks_without_biases_alone(digits, recipe, solutions, make_mlp):
    norm = initialise(partial(build, "resnet", width=4), 0)
    a, b = (train(norm, digits, recipe, seed) for seed in (0, 1))
    assert unit_statistics(norm, a, digits) == {}
    plain, rescaled = (
        path_losses(norm, a, b, digits, ts=3, repair=repair) for repair in (False, True)
    )
    assert all((plain.loss[split] == rescaled.loss[split]).all() for split in plain.loss)
    plain, rescaled = (
        path_losses(make_mlp(), *solutions[:2], digits, ts=3, repair=repair)
        for repair in (False, True)
    )
    for split in plain.loss:
        assert (plain.loss[split] == rescaled.loss[split]).tolist() == [True, False, True], (
            "the ends"
        )


def test_a_unit_that_never_changes_is_only_shifted(small):
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    a, b = (
        {k: v.clone() for k, v in initialise(make, seed).state_dict().items()} for seed in (0, 1)
    )
    for state, bias in ((a, 1.0), (b, 3.0)): state["0.weight"][2], state["0.bias"][2] = 0, bias
    middle = repair(make(), a, b, 0.5, small)
    assert middle["0.weight"][2].abs().max() == 0 and middle["0.bias"][2] == pytest.approx(2.0)
