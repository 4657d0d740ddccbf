"Populations: stacked, on threads, in processes or alone, the same networks."
import shutil
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from starlight_nb.runtime.store import Checkpoint
from starlight_nb.data import Dataset, Split, load
from starlight_nb.runtime.jobs import single_thread
from starlight_nb.evaluation import evaluate
from starlight_nb.models import build, initialise
from starlight_nb.training import Recipe, published_recipes, recipe_from
from starlight_nb.training import plan_population, train, train_population, train_stacked
from starlight_nb.training.populations import MOST_THREADS
from starlight_nb.training.networks import StackedModules, draws_random_numbers, why_not_stacked

RECIPE = Recipe(epochs=2, batch_size=100, lr=0.03)


class Tied(nn.Module):
    "Two layers with the same weights."
    def __init__(self):
        super().__init__()
        self.into, self.first = nn.Linear(64, 16), nn.Linear(16, 16)
        self.second, self.out = self.first, nn.Linear(16, 10)

    def forward(self, x):
        return self.out(self.second(self.first(self.into(x.flatten(1)).relu()).relu()))


def dropout():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)
    )


MAKE = {
    "mlp": partial(build, "mlp"),
    "tied": Tied,
    "dropout": dropout,
    "resnet": partial(build, "resnet", width=4),
}


@pytest.fixture(scope="module")
def data(): return load("digits")


def equal(states, others):
    return all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(states, others, strict=True)
    )


def alone(make, data, recipe, seeds):
    with single_thread():
        return [train(initialise(make, seed), data, recipe, seed) for seed in seeds]


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        RECIPE.replace(optimizer="adam", lr=0.003),
        RECIPE.replace(optimizer="adamw", lr=0.003, label_smoothing=0.1),
        RECIPE.replace(augmentation="crop+flip", crop_padding=1, schedule="one-cycle"),
        RECIPE.replace(batch_size=1399, momentum=0.0, weight_decay=0.0),
    ],
)
@pytest.mark.parametrize("name", ["mlp", "tied"])
def test_a_stack_is_its_networks(name, recipe, data):
    models = [initialise(MAKE[name], seed) for seed in (3, 1, 2)]
    with single_thread(): stacked = train_stacked(models, data, recipe, [3, 1, 2])
    assert equal(stacked, alone(MAKE[name], data, recipe, [3, 1, 2]))


@pytest.mark.parametrize(
    "name, count, jobs, backend, sizes",
    [
        ("mlp", 13, 2, "threads", [6, 7]),
        ("tied", 12, 1, "threads", [12]),
        ("mlp", 3, 2, "processes", [1, 1, 1]),
        ("resnet", 3, 2, "threads", [1, 1, 1]),
        ("dropout", 3, 2, "processes", [1, 1, 1]),
        ("resnet", 9, MOST_THREADS + 1, "processes", [1] * 9),
    ],
)
def test_plans(name, count, jobs, backend, sizes, data):
    plan = plan_population(MAKE[name](), data, RECIPE, count, jobs)
    assert plan.backend == backend
    assert [len(group) for group in plan.groups] == sizes
    assert plan.why in str(plan)
    assert sorted(n for group in plan.groups for n in group) == list(range(count))


@pytest.mark.parametrize("name, count", [("mlp", 12), ("resnet", 3), ("dropout", 3)])
def test_however_a_population_is_trained_it_is_the_same(name, count, data):
    state = torch.get_rng_state()
    population = train_population(MAKE[name], data, RECIPE, range(count), jobs=2)
    # threads leave no trace in the global generator
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(population, alone(MAKE[name], data, RECIPE, range(count)))


def test_on_a_cluster_the_plan_is_for_a_cluster(data, monkeypatch):
    plans = [plan_population(MAKE[name](), data, RECIPE, 12, 2, backend="ray") for name in MAKE]
    assert {plan.backend for plan in plans} == {"ray"}
    monkeypatch.setenv("STARLIGHT_BACKEND", "ray")
    assert plan_population(MAKE["mlp"](), data, RECIPE, 12, 2).backend == "threads", "the caller decides"
    with pytest.raises(ValueError, match="backend: 'rya' is not known; did you mean 'ray'"):
        train_population(MAKE["mlp"], data, RECIPE, [0], backend="rya")


def test_reasons_against_a_stack(data):
    x = data.train.x[:2]
    reasons = {name: why_not_stacked(make(), data.train) for name, make in MAKE.items()}
    assert reasons["mlp"] == reasons["tied"] == ""
    assert reasons["dropout"] == "it draws random numbers"
    assert "buffers" in reasons["resnet"]
    assert "compiled" in why_not_stacked(MAKE["mlp"](), data.train, Recipe(compile=True))
    assert not draws_random_numbers(MAKE["resnet"](), x)
    assert draws_random_numbers(dropout(), x) and not draws_random_numbers(dropout()[:3], x)


@pytest.mark.parametrize(
    "size, stacked", [(100, True), (7, False), (1397, False), (1399, True), (8, True)]
)
def test_no_stack_where_a_batch_is_so_small_that_sums_are_taken_in_another_order(
    size, stacked, data
):
    plan = plan_population(MAKE["mlp"](), data, RECIPE.replace(batch_size=size), 12)
    assert (len(plan.groups) == 1) == stacked and ("fewer than 8 examples" in plan.why) != stacked


def test_a_divergence_in_a_stack_names_its_seed(data):
    models = [initialise(MAKE["mlp"], seed) for seed in (5, 6)]
    models[1][1].weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="seed 6"):
        train_stacked(models, data, RECIPE, [5, 6])


def test_a_stack_of_different_networks_is_refused():
    with pytest.raises(ValueError, match="modules: all must be of one architecture"):
        StackedModules([MAKE["mlp"](), MAKE["tied"]()])


@pytest.mark.parametrize(
    "seeds, message",
    [
        ([], "seeds: at least one"),
        ([0, 0], "the same seed"),
        ([0.5], "whole numbers"),
        ([-1], "whole numbers"),
    ],
)
def test_bad_seeds(seeds, message, data):
    with pytest.raises(ValueError, match=message):
        train_population(MAKE["mlp"], data, RECIPE, seeds)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(seeds=5), "seeds: whole numbers from 0 up are needed, not 5"),
        (dict(seeds=[True]), "seeds: whole numbers"),
        (dict(jobs=0), "jobs: a whole number of at least 1"),
        (dict(jobs="2"), "jobs: a whole number"),
        (dict(build="mlp"), "build: a function that builds a network is needed, not 'mlp'"),
        (dict(recipe={"epochs": 1}), "recipe: a Recipe is needed"),
        (dict(data=None), "data: a Dataset is needed"),
    ],
)
def test_bad_arguments_of_a_population(change, message, data):
    with pytest.raises(ValueError, match=message):
        train_population(
            **dict(build=MAKE["mlp"], data=data, recipe=RECIPE, seeds=[0], jobs=1) | change
        )


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(seed=None), "seed: a whole number of at least 0 is needed, not None"),
        (dict(seed=-1), "seed: a whole"),
        (dict(seed=1.5), "seed: a whole"),
        (dict(recipe="resnet18-sgd"), "recipe: a Recipe is needed"),
        (dict(checkpoint="here"), "checkpoint: a Checkpoint is needed, not 'here'"),
    ],
)
def test_bad_arguments_of_a_training(change, message, data):
    with pytest.raises(ValueError, match=message):
        train(**dict(model=MAKE["mlp"](), data=data, recipe=RECIPE, seed=0) | change)


def test_numpys_integers_are_seeds(data):
    assert equal(
        train_population(MAKE["mlp"], data, RECIPE, np.arange(2)),
        train_population(MAKE["mlp"], data, RECIPE, [0, 1]),
    )


def test_a_stack_needs_a_seed_for_each_model(data):
    with pytest.raises(ValueError, match="seeds: one for each model"):
        train_stacked([MAKE["mlp"]()], data, RECIPE, [0, 1])


def test_a_checkpoint_of_a_stack_belongs_to_its_seeds(data, tmp_path):
    models = [initialise(MAKE["mlp"], seed) for seed in (0, 1)]
    checkpoint = Checkpoint(tmp_path / "stack", every=0, keep=True)
    train_stacked(models, data, RECIPE, [0, 1], checkpoint)
    with pytest.warns(UserWarning, match="seed differs"):
        train_stacked(models, data, RECIPE, [0, 2], checkpoint)


class Viewed(nn.Module):
    "Flattens a view of its input, which has to be contiguous."
    def forward(self, x): return x.view(len(x), -1)


def flattened_by_view():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Viewed(), nn.Linear(8 * 14 * 14, 10))


@pytest.mark.parametrize("side, make, channels_last", [
    (16, partial(build, "resnet", width=8, channels_in=3), True),
    (8, partial(build, "resnet", width=8, channels_in=3), False),
    (16, partial(build, "resnet", width=4, channels_in=3), False),  # unsafe on some processors
    (16, flattened_by_view, False), (32, partial(build, "vgg11"), False)],
    ids=["gains", "few pixels", "thin", "flattened by view", "large"])
def test_a_recipe_that_leaves_the_format_open_gets_the_faster_one(side, make, channels_last):
    "In training and in evaluation, on a CPU; the losses are those of the usual format."
    rng = torch.Generator().manual_seed(0)
    split = Split(torch.randn(8, 3, side, side, generator=rng), torch.arange(8) % 10)
    model, seen = initialise(make, 0), []

    def look(module, inputs, output):
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((output.requires_grad, last))

    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(look)
    recipe = Recipe(epochs=1, batch_size=8, lr=0.01)
    state = train(model, Dataset("images", split, split), recipe, 0)
    loss, _ = evaluate(model, state, split)
    assert {last for in_training, last in seen if in_training} == {channels_last}
    assert seen[-1] == (False, channels_last)  # the passes between are trials
    other, _ = evaluate(model, state, split, recipe=recipe.replace(channels_last=False))
    assert loss == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("asked, width, expected", [
    (True, 4, False), (True, 8, True), (None, 8, False), (False, 8, False)])
def test_a_stack_of_convolutions_has_a_safe_format(asked, width, expected):
    modules = [build("resnet", width=width) for _ in range(2)]
    ignored = pytest.warns(UserWarning, match="channels_last is ignored")
    with ignored if width < 8 else nullcontext(): stack = StackedModules(modules, Recipe(channels_last=asked))
    assert stack.recipe.channels_last is expected


@pytest.mark.parametrize("changes", [dict(precision="bfloat16"), dict(channels_last=True)])
def test_other_precisions_and_formats_train_as_well(changes, data):
    """In three channels, since one channel has the same memory in both formats; the network tells
    what it sees. A thinner network would keep the default format on a CPU."""
    recipe = RECIPE.replace(epochs=4)
    make = partial(build, "resnet", width=8, channels_in=3)
    seen = []
    data = Dataset(
        "three channels",
        *(Split(part.x.repeat(1, 3, 1, 1), part.y) for part in (data.train, data.test)),
    )

    def look(module, inputs, output):
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append({"channels_last": last, "precision": str(output.dtype).removeprefix("torch.")})

    def trained(changes):
        model = initialise(make, 0)
        next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(look)
        seen.clear()
        return train(model, data, recipe.replace(**changes), 0), seen[0]

    (plain, default), (other, changed) = trained({}), trained(changes)
    assert default == {"channels_last": False, "precision": "float32"}
    assert changed == default | changes
    model = make().eval()

    def loss(state):
        model.load_state_dict(state)
        with torch.no_grad():
            return nn.functional.cross_entropy(model(data.train.x), data.train.y).item()

    assert all(tensor.dtype == plain[name].dtype for name, tensor in other.items())
    assert loss(other) == pytest.approx(loss(plain), rel=0.2)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_trains_as_well(data):
    plain, compiled = (
        train(initialise(MAKE["resnet"], 0), data, RECIPE.replace(epochs=1, compile=c), 0)
        for c in (False, True)
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, atol=1e-3, rtol=1e-2)


def test_the_papers_recipes():
    names = published_recipes()
    assert {
        "resnet18-sgd", "resnet18-adam", "densenet40", "vgg11", "vgg19", "wideresnet",
        "imagenet-resnet18", "mnist-mlp", "agnews",
    } <= set(names)
    assert all(
        entry.keys() == {"setting", "source", "choice", "recipe"} for entry in names.values()
    )
    assert recipe_from("densenet40").milestones == (0.5, 0.75)
    assert recipe_from({"like": "vgg11", "epochs": 2}).epochs == 2
    for bad, message in (
        ({"like": "vgg"}, "recipe.like: 'vgg' is not known"),
        ("lenet", "recipe.like"),
        (3, "a name or a table"),
        ({"like": "vgg11", "lr": -1}, "recipe.lr"),
    ):
        with pytest.raises(ValueError, match=message): recipe_from(bad)
