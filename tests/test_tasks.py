"""Losses other than cross-entropy, inputs of any form, data that are read by the batch: everything that is measured on them
equals what a plain loop computes."""
import copy
import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from starlight_nb.barriers import accuracy_barrier, barrier_between, loss_barrier, path_losses, repair
from starlight_nb.bma import average_predictions, sample_star_domain
from starlight_nb.data import (
    Dataset,
    Metric,
    Split,
    Stream,
    Task,
    classification,
    multi_label,
    next_token,
    regression,
    segmentation,
)
from starlight_nb.data.inputs import call, count_examples, first_rows
from starlight_nb.evaluation import evaluate, interpolate, refresh_batchnorm
from starlight_nb.fusion import average_aligned, ensemble, train_fused_star
from starlight_nb.matching import align, match
from starlight_nb.models import initialise
from starlight_nb.paper.members import Pair
from starlight_nb.paper.profiles import check_fits, load_profile
from starlight_nb.paper.study import PairPath, Study, path_curve, path_rows
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.plots import plot_paths
from starlight_nb.runtime.settings import Settings
from starlight_nb.runtime.store import Checkpoint, Store
from starlight_nb.star import train_star
from starlight_nb.states import state_of
from starlight_nb.training import Recipe, train, train_population
from starlight_nb.training.loop import task_config

RECIPE = Recipe(epochs=2, batch_size=20, lr=0.05)


class Text(nn.Module):
    "Logits for the next of eleven tokens, from this one and the one before."
    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(11, 8), nn.Linear(16, 12), nn.Linear(12, 11)

    def forward(self, tokens):
        x = self.embedding(tokens)
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return self.head(F.relu(self.hidden(torch.cat([x, before], -1))))


class TwoInputs(nn.Module):
    "A number from a vector and a weight for each example."
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(5, 10), nn.Linear(10, 1)

    def forward(self, x, scale): return self.out(F.relu(self.hidden(x))) * scale[:, None]


def mlp(outputs): return nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, outputs))


def pixels():
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1))


def plain_loss(model, state, part, loss):
    "The mean loss over a part, one example after another."
    model = copy.deepcopy(model).eval()
    model.load_state_dict(state)
    total = weight = 0.0
    with torch.no_grad():
        for n in range(count_examples(part.x)):
            x, y = (first_rows(take(values, n), 1) for values in (part.x, part.y))
            own, count = loss(call(model, x), y)
            total, weight = total + float(own), weight + float(count)
    return total / weight


def take(values, n):
    if isinstance(values, dict): return {name: take(own, n) for name, own in values.items()}
    if isinstance(values, tuple): return tuple(take(own, n) for own in values)
    return values[n:n + 1]


def by_class(outputs, y, ignored=-100):
    return F.cross_entropy(outputs, y, reduction="sum", ignore_index=ignored), (y != ignored).sum()


def shifted(outputs, y): return by_class(outputs[:, :-1].reshape(-1, 11), y[:, 1:].reshape(-1))


def generated(kind, count, seed):
    "Examples of a kind of data, drawn at random with something to learn."
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=rng)
    if kind == "classification": return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    if kind == "regression": return (x, x[:, 1]), x[:, 0] * x[:, 1]
    if kind == "multi-label": return x, (x[:, :3] > 0).long()
    if kind == "next token":
        tokens = torch.randint(11, (count, 7), generator=rng)
        tokens[:, 1::2] = (tokens[:, ::2][:, :3] + 1) % 11
        return {"tokens": tokens}, torch.where(torch.rand(count, 7, generator=rng) < 0.1, -100, tokens)
    images = torch.randn(count, 1, 6, 6, generator=rng)
    labels = (images[:, 0] > 0.5).long() + (images[:, 0] > -0.5).long()
    labels[:, 0, 0] = 255
    return images, labels


def binary(outputs, y): return F.binary_cross_entropy_with_logits(outputs, y.float(), reduction="sum"), y.numel()


KINDS = {  # by name: task, model, loss of one example and how many terms it has
    "classification": (classification(), partial(mlp, 3), by_class),
    "regression": (regression(), TwoInputs, lambda o, y: (((o[:, 0] - y)**2).sum(), len(y))),
    "multi-label": (multi_label(), partial(mlp, 3), binary),
    "next token": (next_token(shift=True), Text, shifted),
    "segmentation": (segmentation(), pixels, partial(by_class, ignored=255)),
}


def dataset(kind):
    task = KINDS[kind][0]
    return Dataset(kind, generated(kind, 90, 0), generated(kind, 37, 1), task=task)


@pytest.fixture(scope="module", params=KINDS)
def kind(request): return request.param


@pytest.fixture(scope="module")
def trained(kind):
    "A kind of data, its model, four solutions, and a star of the first two."
    data, make = dataset(kind), KINDS[kind][1]
    states = train_population(make, data, RECIPE.replace(epochs=6), range(4))
    star = train_star(initialise(make, 9), states[:2], data, RECIPE.replace(epochs=8), seed=9)
    return data, make(), states, star


def test_losses_are_those_of_a_plain_loop(kind, trained):
    data, model, states, _ = trained
    for part in (data.train, data.test):
        found = evaluate(model, states[0], part, batch_size=13)
        expected = plain_loss(model, states[0], part, KINDS[kind][2])
        assert found.loss == pytest.approx(expected, rel=1e-5)
        assert evaluate(model, states[0], part).to_dict() == pytest.approx(found.to_dict(), rel=1e-4)


def test_training_lowers_the_loss(kind, trained):
    data, model, states, star = trained
    untrained = evaluate(model, state_of(initialise(KINDS[kind][1], 9)), data.train).loss
    assert max(evaluate(model, state, data.train).loss for state in states) < untrained
    assert evaluate(model, star.state, data.train).loss < untrained


def test_paths_and_barriers_are_those_of_a_plain_loop(kind, trained):
    data, model, states, _ = trained
    spec = infer_spec(model, data.train.first(2))
    found = match("weights", spec, states[0], states[1]).permutation
    matched = permute(spec, found, states[1])
    curve = path_losses(model, states[0], matched, data, 5)
    for n, t in enumerate(curve.ts):
        state = interpolate(states[0], matched, float(t))
        if 0 < t < 1: state = refresh_batchnorm(model, state, data)
        expected = plain_loss(model, state, data.test, KINDS[kind][2])
        assert curve.loss["test"][n] == pytest.approx(expected, rel=1e-5)
    eleven = path_losses(model, states[0], matched, data)
    assert barrier_between(model, states[0], states[1], data) == loss_barrier(eleven)
    assert set(curve.to_frame().metric) == {"loss", *data.task.metrics}


def test_every_method_of_matching_uses_the_task(trained):
    data, model, states, _ = trained
    spec = infer_spec(model, data.train.first(2))
    for method, options in {"activations": {}, "straight-through": dict(steps=3, every=1), "sinkhorn": dict(
            cost="midpoint", steps=2)}.items():
        found = match(method, spec, states[0], states[1], model=model, data=data, **options).permutation
        moved = permute(spec, found, states[1])
        assert evaluate(model, moved, data.test).loss == pytest.approx(
            evaluate(model, states[1], data.test).loss, rel=1e-4)


def test_stars_and_merged_models_are_measured(trained):
    data, model, states, star = trained
    spec = infer_spec(model, data.train.first(2))
    heldout = barrier_between(model, star.state, states[2], data, spec=spec)
    source = barrier_between(model, star.state, states[0], data, spec=spec)
    assert 0 <= source < math.inf and 0 <= heldout < math.inf
    fused = train_fused_star(model, states[:2], data, RECIPE, spec=spec)
    averaged = average_aligned(spec, states[:3], model=model, data=data, repair=True)
    middle = repair(model, states[0], states[0], 0.5, data)
    for state in (fused.state, averaged, middle):
        assert math.isfinite(evaluate(model, state, data.test).loss)


def test_predictions_are_averaged_as_the_task_says(kind, trained):
    data, model, states, star = trained
    part = replace(data.test, x=first_rows(data.test.x, 9), y=data.test.y[:9])
    found = average_predictions(model, states[:2], part)
    single = []
    for state in states[:2]:
        own = copy.deepcopy(model).eval()
        own.load_state_dict(state)
        with torch.no_grad(): outputs = call(own, part.x).double()
        single.append({"regression": lambda o: o, "multi-label": torch.sigmoid, "next token": lambda o: o.softmax(-1)}.get(
            kind, lambda o: o.softmax(1))(outputs))
    torch.testing.assert_close(found, sum(single) / 2, atol=1e-6, rtol=1e-5)
    draws = sample_star_domain(star, states[:2], 2, torch.Generator().manual_seed(0), model=model, data=data)
    assert average_predictions(model, draws, part).shape == ensemble(model, states, part).shape == found.shape


def test_figures_name_the_loss(kind, trained):
    data, model, states, _ = trained
    curve = path_losses(model, states[0], states[1], data, 3)
    frame = curve.to_frame().assign(setting="mine", pair="regular-regular", model_a="a", model_b="b")
    labels = [axis.get_ylabel() for axis in plot_paths(frame).axes]
    assert [axis.get_ylabel() for axis in plot_paths({"mine": curve}).axes] == labels
    expected = {"regression": "mean squared error, train", "classification": "loss, train (nats)",
                "multi-label": "binary cross-entropy, train (nats a label)"}
    assert labels[0] == expected.get(kind, labels[0]) and "train" in labels[0]
    assert labels[1].split(",")[0] in data.task.metrics


def test_the_bits_do_not_depend_on_how_the_data_are_given(kind):
    "The same batches from memory and from a loader train the same network."
    task, make, _ = KINDS[kind]
    x, y = generated(kind, 60, 0)
    if isinstance(x, dict): batches = [(take_some(x, n), y[n:n + 20]) for n in range(0, 60, 20)]
    else: batches = [(take_some(x, n), y[n:n + 20]) for n in range(0, 60, 20)]
    held = Dataset("held", (x, y), (x, y), task=task)
    read = Dataset("read", batches, lambda: iter(batches), task=task)
    assert len(read.train) == 60 and read.train.batch_sizes() == [20, 20, 20]
    state = state_of(initialise(make, 0))
    assert evaluate(make(), state, held.test, 20) == evaluate(make(), state, read.test)
    curves = [path_losses(make(), state, state_of(initialise(make, 1)), data, 3) for data in (held, read)]
    np.testing.assert_allclose(curves[0].loss["train"], curves[1].loss["train"], rtol=1e-5)


def take_some(values, n):
    if isinstance(values, dict): return {name: take_some(own, n) for name, own in values.items()}
    if isinstance(values, tuple): return tuple(take_some(own, n) for own in values)
    return values[n:n + 20]


def loader_of(seeded, workers=0):
    x, y = generated("classification", 50, 0)
    own = torch.Generator().manual_seed(3) if seeded else None
    return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=own, num_workers=workers)


@pytest.mark.parametrize("seeded", [False, True])
def test_a_training_that_reads_a_loader_is_resumed_with_the_same_bits(seeded, tmp_path):
    loader = loader_of(seeded)
    data = Dataset("mine", loader, loader)
    recipe, model = RECIPE.replace(epochs=4), initialise(partial(mlp, 3), 0)
    whole = train(model, data, recipe, 5)
    again, other = train(model, data, recipe, 5), train(model, data, recipe, 6)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)
    checkpoint = Checkpoint(tmp_path / "checkpoint", every=0)
    with pytest.raises(KeyboardInterrupt): train(broken(model, 10), data, recipe, 5, checkpoint)
    assert checkpoint.path.exists()
    resumed = train(model, data, recipe, 5, checkpoint)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def broken(model, steps):
    "A copy that is interrupted from the keyboard after so many steps."
    model, left = copy.deepcopy(model), iter(range(steps))

    def count(*_):
        if next(left, None) is None: raise KeyboardInterrupt
    model.register_forward_pre_hook(count)
    return model


def test_a_star_reads_loaders_with_workers_and_leaves_no_trace():
    loader = loader_of(False, workers=2)
    data = Dataset("mine", loader, loader)
    sources = [train(initialise(partial(mlp, 3), seed), data, RECIPE, seed) for seed in (0, 1)]
    before = torch.get_rng_state()
    stars = [train_star(initialise(partial(mlp, 3), 2), sources, data, RECIPE, seed=2) for _ in range(2)]
    assert all(torch.equal(stars[0].state[name], stars[1].state[name]) for name in stars[0].state)
    assert torch.equal(before, torch.get_rng_state())


def test_samplers_are_told_the_epoch():
    class Sampler(torch.utils.data.SequentialSampler):
        epochs = []
        def set_epoch(self, epoch): self.epochs.append(epoch)
    x, y = generated("classification", 40, 0)
    table = TensorDataset(x, y)
    stream = Stream(DataLoader(table, batch_size=20, sampler=Sampler(table)))
    train(mlp(3), Dataset("mine", stream, (x, y)), RECIPE.replace(epochs=3), 0)
    assert Sampler.epochs[-3:] == [0, 1, 2]


def test_a_checkpoint_belongs_to_one_task(tmp_path):
    x = torch.randn(40, 5)
    checkpoint, model = Checkpoint(tmp_path / "file", every=0, keep=True), mlp(1)
    with pytest.raises(KeyboardInterrupt):
        train(broken(model, 3), Dataset("mine", (x, x[:, 0]), (x, x[:, 0]), task=regression()), RECIPE, 0, checkpoint)
    absolute = Task(lambda outputs, targets: (outputs[:, 0] - targets).abs().mean())
    with pytest.warns(UserWarning, match="it holds another configuration: task differs"):
        train(model, Dataset("mine", (x, x[:, 0]), (x, x[:, 0]), task=absolute), RECIPE, 0, checkpoint)


def test_a_loss_of_ones_own_with_metrics_of_every_kind():
    x, y = torch.randn(30, 5), torch.randn(30, 2)

    def gap(outputs, targets): return (outputs - targets).abs().mean()
    worst = Metric(lambda o, t: (o - t).abs().max(), float, torch.maximum)
    task = Task(F.smooth_l1_loss, {"gap": gap, "worst": worst}, name="mine", loss_name="Huber loss (m)")
    data, model = Dataset("mine", (x, y), (x, y), task=task), mlp(2)
    found = evaluate(model, state_of(model), data.train, 30)
    assert evaluate(model, state_of(model), data.train, 7).to_dict() == pytest.approx(found.to_dict(), rel=1e-5)
    outputs = model(x)
    assert found.loss == pytest.approx(F.smooth_l1_loss(outputs, y).item(), rel=1e-6)
    assert found.gap == pytest.approx(gap(outputs, y).item(), rel=1e-6) and found.worst > found.gap
    curve = path_losses(model, state_of(model), state_of(mlp(2)), data, 3)
    assert curve.to_frame().attrs["loss_name"] == "Huber loss (m)"
    with pytest.raises(ValueError, match="metric: 'accuracy' is not known .*gap, worst"): accuracy_barrier(curve)
    with pytest.raises(ValueError, match="task: 'mine' does not say what is averaged"):
        average_predictions(model, [state_of(model)], data.train)


def test_labels_that_are_ignored_do_not_count():
    "In a batch where none counts, in a part of it, and where nothing counts at all."
    tokens = torch.randint(11, (40, 7), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[::2] = -100
    task, model = next_token(shift=True), initialise(Text, 0)
    part = Split({"tokens": tokens}, labels, task)
    batches = [({"tokens": tokens[n::2]}, labels[n::2]) for n in (0, 1)]
    expected = plain_loss(model, state_of(model), part, shifted)
    for own in (part, Stream(batches, task)):
        assert evaluate(model, state_of(model), own, 2).loss == pytest.approx(expected, rel=1e-5)
    trained = train(model, Dataset("d", part, part), RECIPE.replace(batch_size=1, epochs=1), 0)
    assert all(tensor.isfinite().all() for tensor in trained.values())
    nothing = Split({"tokens": tokens}, torch.full_like(labels, -100), task)
    with pytest.raises(ValueError, match="data: nothing counts in this part"): evaluate(model, state_of(model), nothing)
    own = Task(partial(cross_entropy_of_tokens), weight=lambda o, t: (t != -100).sum())
    mine = Dataset("mine", ({"tokens": tokens}, labels), ({"tokens": tokens}, labels), task=own)
    assert evaluate(model, state_of(model), mine.test, 1).loss == pytest.approx(
        cross_entropy_of_tokens(model(tokens), labels).item(), rel=1e-5)


def cross_entropy_of_tokens(outputs, labels): return F.cross_entropy(outputs.transpose(1, 2), labels, ignore_index=-100)


def test_a_pair_of_targets_is_no_pair_of_batches():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, u, v): return self.a(u), self.b(v)
    x = torch.randn(40, 5)
    task = Task(lambda o, t: F.mse_loss(o[0], t[0]) + F.mse_loss(o[1], t[1]),
                predictions=lambda o: o[0])
    data, model = Dataset("d", ((x, 2 * x), (x, x + 1)), ((x, x), (x, x)), task=task), Two()
    first, second = model(x, 2 * x)
    assert len(data.train) == 40
    assert evaluate(model, state_of(model), data.train).loss == pytest.approx(
        (F.mse_loss(first, x) + F.mse_loss(second, x + 1)).item(), rel=1e-5)
    assert average_predictions(model, [state_of(model)], data.test).shape == (40, 5)
    lists = Dataset("d", (x.numpy(), [0, 1] * 20), {"input": x, "labels": torch.arange(40) % 2})
    assert len(lists.train) == len(lists.test) == 40


@pytest.mark.parametrize("persistent", [False, True])
def test_noise_of_any_kind_is_the_same_in_every_measurement(persistent):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self): return 40
        def __getitem__(self, row):
            noise = np.random.randn(5) + random.random()
            return torch.randn(5) + torch.as_tensor(noise).float(), row % 3
    loader = DataLoader(Noisy(), 20, num_workers=int(persistent), persistent_workers=persistent)
    data, model = Dataset("d", loader, loader), mlp(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert barrier_between(model, state_of(model), state_of(model), data) == pytest.approx(0, abs=1e-6)
    assert before[0] == random.getstate() and before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(before[2], torch.get_rng_state())


def test_a_loaders_own_generator_is_the_users_between_batches():
    own = torch.Generator().manual_seed(3)
    x, y = generated("classification", 40, 0)
    loader, before = DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=own), own.get_state()
    data = Dataset("d", loader, loader)
    passing = data.train.batches()
    next(passing)
    assert torch.equal(own.get_state(), before)
    own.manual_seed(99)
    del passing
    assert torch.equal(torch.randperm(5, generator=own), torch.randperm(5, generator=torch.Generator().manual_seed(99)))


def test_the_weights_of_a_loss_belong_to_a_checkpoint():
    tasks = [Task(nn.CrossEntropyLoss(weight=torch.tensor([first, 2.0, 3.0]))) for first in (1.0, 9.0)]
    assert task_config(tasks[0]) != task_config(tasks[1]) and task_config(classification()) == {}
    x = torch.randn(8, 5)
    plain = [(x, torch.arange(8) % 2)]
    digests = [Dataset("d", Stream(plain, training=[(x + n, torch.arange(8) % 2)]), plain).digest for n in (0, 1)]
    assert digests[0] != digests[1]


def test_texts_of_several_lengths_are_read_by_the_batch():
    batches = [({"tokens": torch.randint(11, (4, length))}, torch.randint(11, (4, length))) for length in (5, 6, 7)]
    task, model = next_token(shift=False), Text()
    data = Dataset("d", batches, batches, task=task)
    total = sum(by_class(model(x["tokens"]).reshape(-1, 11), y.reshape(-1))[0].item() for x, y in batches)
    assert evaluate(model, state_of(model), data.test).loss == pytest.approx(total / (4 * 18), rel=1e-5)
    assert barrier_between(model, state_of(model), state_of(Text()), data) >= 0 and data.digest
    with pytest.raises(ValueError, match="data: batches of different shapes"): average_predictions(
        model, [state_of(model)], data.test)


def test_a_last_batch_of_one_example_is_left_out_in_training():
    x, y = generated("classification", 33, 0)
    loader, model = DataLoader(TensorDataset(x, y), 16), nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    data = Dataset("d", loader, loader)
    assert data.train.batch_sizes() == [16, 16] and len(data.train) == 33
    held = Dataset("d", (x[:32], y[:32]), (x, y))
    found, same = (train(model, own, RECIPE.replace(epochs=1), 0) for own in (data, Dataset("d", list(loader), (x, y))))
    assert all(torch.equal(found[name], same[name]) for name in found)
    assert math.isfinite(evaluate(model, found, held.test).loss)


BAD = {
    "a loss that is no scalar": (lambda x, y: Dataset("d", (x, y), (x, y), task=Task(
        lambda o, t: (o[:, 0] - t).square())), "loss: the mean over the batch is needed"),
    "a loader that is read once": (lambda x, y: Dataset("d", (b for b in [(x, y)]), (x, y)), "train: it can be read only once"),
    "batches that are not alike": (lambda x, y: Dataset("d", [(x, y.abs().long()), ((x, x), y.abs().long())], (x, y.abs().long())),
                                   "train: the first batch is .* a later one"),
    "targets of another length": (lambda x, y: Dataset("d", (x, y[:7]), (x, y), task=regression()), "train, targets: 7 targets for 12 examples"),
    "a batch of another length": (lambda x, y: Dataset("d", [(x, y[:7])], (x, y), task=regression()),
                                  "train: a batch has 7 targets for 12 inputs"),
    "parts of batches of a loader": (lambda x, y: train_star(mlp(1), [state_of(mlp(1))], Dataset(
        "d", [(x, y)], (x, y), task=regression()), RECIPE, segments_per_batch=2), "segments_per_batch: 1 is needed for data"),
    "larger batches of a loader": (lambda x, y: train_star(mlp(1), [state_of(mlp(1))], Dataset(
        "d", [(x, y)], (x, y), task=regression()), RECIPE, late_batch_factor=2), "late_batch_factor: 1 is needed for data"),
    "parts of texts": (lambda x, y: train_star(Text(), [state_of(Text())], Dataset("d", *[(
        {"tokens": torch.zeros(12, 5).long()}, torch.zeros(12, 5).long())] * 2, task=next_token(shift=True)), RECIPE,
        segments_per_batch=2), "segments_per_batch: 1 is needed for the task 'next token'"),
    "a task that was not made": (lambda x, y: Split(x, y, regression), "task: a Task is needed, such as regression"),
    "a loss without a gradient": (lambda x, y: Dataset("d", (x, y), (x, y), task=Task(lambda o, t: 1.0)), "loss: it has no gradient"),
    "a loader in place of a part": (lambda x, y: evaluate(mlp(1), state_of(mlp(1)), [(x, y)]), "split: a part of a data set"),
    "a metric twice": (lambda x, y: Task(F.mse_loss, [("a", F.l1_loss), ("a", F.l1_loss)]), "the name 'a' is there twice"),
    "examples instead of batches": (lambda x, y: Dataset("d", TensorDataset(x, y), (x, y), task=regression()),
                                    "train, targets: one example a row|train: a batch"),
    "outputs that broadcast": (lambda x, y: Dataset("d", (x, y[:, None].repeat(1, 3)), (x, y[:, None].repeat(1, 3)),
                                                    task=regression()), "the same shape is needed"),
    "augmentation of a loader": (lambda x, y: (Dataset("d", [(x, y)], (x, y), task=regression()), Recipe(augmentation="flip")),
                                 "recipe.augmentation: a loader augments"),
    "smoothing of numbers": (lambda x, y: (Dataset("d", (x, y), (x, y), task=regression()), Recipe(label_smoothing=0.1)),
                             "recipe.label_smoothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name):
    make, message = BAD[name]
    x = torch.randn(12, 5)
    with pytest.raises(ValueError, match=message):
        found = make(x, x[:, 0])
        data, recipe = found if isinstance(found, tuple) else (found, RECIPE)
        train(mlp(1), data, recipe.replace(epochs=1), 0)


def test_a_label_beyond_the_classes_of_a_stream_is_named():
    x = torch.randn(8, 5)
    data = Dataset("mine", [(x, torch.arange(8))], [(x, torch.arange(8))])
    with pytest.raises(ValueError, match="data: label 7, but the model has 3 classes"): train(mlp(3), data, RECIPE, 0)
    with pytest.raises(ValueError, match="data: label 7, but the model has 3 classes"):
        evaluate(mlp(3), state_of(mlp(3)), data.test)


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=30, max_position_embeddings=16)
    if name == "bert":
        config = transformers.BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                                         num_labels=3, **sizes)
        return partial(transformers.BertForSequenceClassification, config), classification()
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=16,
                                     bos_token_id=0, eos_token_id=0)
    return partial(transformers.GPT2LMHeadModel, config), next_token(shift=True)


def token_batches(labels, count=32):
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (count, 8), generator=rng)
    mask = torch.ones_like(ids)
    mask[::3, 6:] = 0
    targets = ids % 3 if labels == "tokens" else ids[:, 0] % 3
    return [dict(input_ids=ids[n:n + 8], attention_mask=mask[n:n + 8],
                 labels=ids[n:n + 8].masked_fill(mask[n:n + 8] == 0, -100) if labels == "tokens" else targets[n:n + 8])
            for n in range(0, count, 8)]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("streamed", [False, True])
def test_models_of_hugging_face(name, streamed):
    make, task = hugging_face(name)
    batches = token_batches("tokens" if name == "gpt2" else "classes")
    part = batches if streamed else Split.from_loader(batches, task)
    data, recipe = Dataset("tokens", part, part, task=task), Recipe(epochs=2, batch_size=8, lr=0.01, optimizer="adam")
    models = [initialise(make, seed) for seed in range(3)]
    states = [train(model, data, recipe, seed) for seed, model in enumerate(models)]
    one, other = (copy.deepcopy(models[0]) for _ in range(2))
    one.load_state_dict(states[0])
    other.load_state_dict(states[1])
    aligned = align(one, other, data.train.first(2))
    found = evaluate(make(), state_of(aligned), data.test).loss
    assert found == pytest.approx(evaluate(make(), states[1], data.test).loss, rel=1e-4)
    with torch.no_grad():
        expected = [own.loss.item() for own in (one.eval()(**batch) for batch in batches)]
    if name == "bert": assert evaluate(make(), states[0], data.test).loss == pytest.approx(np.mean(expected), rel=1e-4)
    assert 0 <= barrier_between(make(), states[0], states[1], data) < math.inf
    star = train_star(models[2], states[:2], data, recipe)
    draws = sample_star_domain(star, states[:2], 2, torch.Generator().manual_seed(0), model=make(), data=data)
    averaged = average_predictions(make(), draws, data.test)
    torch.testing.assert_close(averaged.sum(-1), torch.ones(averaged.shape[:-1], dtype=torch.double))


def test_a_table_with_a_collator_is_a_stream():
    "As a table of Hugging Face's datasets: rows are dicts."
    class Table(torch.utils.data.Dataset):
        def __len__(self): return 20
        def __getitem__(self, row): return {"x": [float(row)] * 5, "label": row % 2}

    def collate(rows): return {"input": torch.tensor([row["x"] for row in rows]), "labels": [row["label"] for row in rows]}
    stream = Stream(DataLoader(Table(), batch_size=6, collate_fn=collate))
    assert stream.batch_sizes() == [6, 6, 6, 2] and stream.num_classes == 2
    assert math.isfinite(evaluate(mlp(2), state_of(mlp(2)), stream).loss)


MODULE = '''
import torch
from torch import nn
from starlight_nb import Dataset, regression

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, x, scale): return self.out(torch.relu(self.hidden(x))) * scale[:, None]

def load():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    part = {"x": x, "scale": x[:, 1].abs()}, x[:, 0]
    return Dataset("numbers", part, part, task=regression())
'''
PROFILE = '''
title = "numbers"
[settings.net]
dataset = "my_numbers:load"
architecture = "my_numbers:Net"
recipe = { epochs = 1, batch_size = 20, lr = 0.01 }
sources = 1
heldouts = 2
'''


def test_a_study_of_a_regression_with_named_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STARLIGHT_STORE", str(tmp_path / "store"))
    (tmp_path / "my_numbers.py").write_text(MODULE)
    (tmp_path / "mine.toml").write_text(PROFILE)
    setting, environment = load_profile(str(tmp_path / "mine.toml")).settings["net"], Settings.from_environment()
    study = Study(setting, Store(environment.store), environment, points=3)
    check_fits(setting, study.models.data)
    identity = study.members("source", 1)[0].config
    assert identity["network"]["shape"] == {"x": [5], "scale": []} and identity["task"]
    pair = Pair("star-heldout", study.stars([1], 1)[0][2], study.members("heldout", 1)[0], n_source=1, star_seed=0)
    rows = path_rows(study.models, PairPath(pair, 3))
    assert {row["metric"] for row in rows} == {"loss", "r2", "loss_barrier"}
    curve = path_curve(study.models, PairPath(pair, 3))
    assert curve.loss_name == "mean squared error" and curve.metrics["r2"]["test"].shape == (3,)
