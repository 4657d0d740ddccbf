"""Training: the same seed is the same bits, whoever runs it, and a divergence says where."""
from functools import partial

import pytest
import torch

from starlight_nb.data import Dataset, Split, batches, load
from starlight_nb.models import build, initialise
from starlight_nb.training import Recipe, learning_rate, recipe_from, single_thread, train, train_population


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_bits_in_any_number_of_processes(digits, recipe, make_mlp):
    alone = train_population(make_mlp, digits, recipe, seeds=[0, 1], jobs=1)
    spread = train_population(make_mlp, digits, recipe, seeds=[0, 1], jobs=2)
    assert all(equal(a, b) for a, b in zip(alone, spread))
    assert not equal(*alone)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("augmentation", ["none", "crop+flip"])
def test_every_kind_of_recipe_learns(digits, optimizer, augmentation):
    from starlight_nb.barriers import evaluate
    recipe = Recipe(epochs=15, lr=0.1 if optimizer == "sgd" else 3e-3, optimizer=optimizer, augmentation=augmentation,
                    crop_padding=1, warmup_epochs=0.5, label_smoothing=0.1, schedule="step", batch_size=100)
    model = initialise(partial(build, "mlp", width=32), 0)
    before, after = (evaluate(model, state, digits.train)[0] for state in (model.state_dict(), train(model, digits, recipe, 0)))
    assert after < 0.6 * before


def test_dropout_draws_from_the_seed_alone(small):
    make = partial(torch.nn.Sequential, torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(16, 3))
    model, recipe = make(), Recipe(epochs=2, batch_size=8)
    first = train(model, small, recipe, 0)
    torch.rand(7)
    assert equal(first, train(model, small, recipe, 0))
    assert not equal(first, train(model, small, recipe, 1))


def test_the_model_and_the_global_generator_are_left_alone(small):
    model = torch.nn.Linear(5, 3)
    weight, state = model.weight.detach().clone(), torch.random.get_rng_state()
    train(model, small, Recipe(epochs=1, batch_size=8), 0)
    assert torch.equal(model.weight, weight) and torch.equal(torch.random.get_rng_state(), state) and model.weight.grad is None


def test_a_loss_that_is_not_finite_names_step_epoch_and_seed(small):
    model = torch.nn.Linear(5, 3)
    broken = Dataset("broken", Split(torch.full_like(small.train.x, torch.nan), small.train.y), small.test)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0 \(epoch 0, batch 0, seed 5\)"):
        train(model, broken, Recipe(epochs=1, batch_size=8), seed=5)


def test_a_frozen_parameter_is_refused(small):
    model = torch.nn.Linear(5, 3)
    model.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="model: 'bias' is frozen"):
        train(model, small, Recipe(epochs=1), 0)


def test_no_epochs_change_nothing(small):
    model = torch.nn.Linear(5, 3)
    assert torch.equal(train(model, small, Recipe(epochs=0), 0)["weight"], model.weight)


def test_a_batch_of_one_is_left_out_only_when_shuffled():
    split = Split(torch.arange(9.)[:, None], torch.arange(9) % 2)
    assert sum(len(x) for x, _ in batches(split, 4)) == 9
    assert sum(len(x) for x, _ in batches(split, 4, torch.Generator())) == 8
    assert sum(len(x) for x, _ in batches(split, 1, torch.Generator())) == 9
    assert [len(x) for x, _ in batches(Split(split.x[:1], split.y[:1]), 4, torch.Generator())] == [1]


def test_normalisation_trains_on_any_number_of_examples(digits):
    part = Dataset("part", Split(digits.train.x[:33], digits.train.y[:33]), digits.test)
    state = train(initialise(partial(build, "resnet", width=2), 0), part, Recipe(epochs=2, batch_size=16, lr=0.01), 0)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.parametrize("settings, message", [
    (dict(lr=-0.1), "recipe.lr: a number of at least 0 is needed, not -0.1"),
    (dict(lr=float("nan")), "recipe.lr"), (dict(lr="fast"), "recipe.lr"),
    (dict(epochs=1.5), "recipe.epochs: a whole number of at least 0 is needed, not 1.5"), (dict(batch_size=0), "recipe.batch_size"),
    (dict(momentum=1.0), "recipe.momentum: a number of at least 0 and below 1"), (dict(momentum="0.9"), "recipe.momentum"),
    (dict(milestones=0.5), "recipe.milestones"), (dict(gamma=float("nan")), "recipe.gamma"), (dict(epochs=6.0), "recipe.epochs"), (dict(optimizer="sdg"), "did you mean 'sgd'"),
    (dict(shedule="cosine"), "did you mean 'schedule'")])
def test_bad_recipes_are_one_clear_error(settings, message):
    with pytest.raises(ValueError, match=message):
        recipe_from(settings)


def test_warmup_rises_from_nothing():
    recipe = Recipe(epochs=10, lr=1.0, schedule="constant", warmup_epochs=2)
    rates = [learning_rate(recipe, step, 4) for step in range(12)]
    assert rates[:8] == [k / 8 for k in range(1, 9)] and set(rates[8:]) == {1.0}


def test_bad_data_are_one_clear_error(small):
    with pytest.raises(ValueError, match="x: the split is empty"):
        Split(small.train.x[:0], small.train.y[:0])
    with pytest.raises(ValueError, match="train: every label is 1; a classifier needs at least two classes"):
        Dataset("one", Split(small.train.x, torch.ones_like(small.train.y)), small.test)
    with pytest.raises(ValueError, match="dataset: 'digit' is not known; did you mean 'digits'"):
        load("digit")
    with pytest.raises(ValueError, match="augmentation.*needs images"):
        train(torch.nn.Linear(5, 3), small, Recipe(epochs=1, augmentation="crop"), 0)


def test_single_thread_puts_the_setting_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), single_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
