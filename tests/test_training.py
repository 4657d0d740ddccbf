"""Training: the same seed is the same bits, whoever runs it, killed or not, and a divergence says
where."""

import copy
import errno
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from functools import partial

import pytest
import torch

from starlight_nb.runtime.store import Checkpoint
from starlight_nb.data import Dataset, Split, batches, load
from starlight_nb.models import build, initialise
from starlight_nb.training import Recipe, recipe_from
from starlight_nb.training.recipes import AUGMENTATIONS, augment, learning_rate
from starlight_nb.training import train, train_population


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
    from starlight_nb.evaluation import evaluate
    recipe = Recipe(
        epochs=15,
        lr=0.1 if optimizer == "sgd" else 3e-3,
        optimizer=optimizer,
        augmentation=augmentation,
        crop_padding=1,
        warmup_epochs=0.5,
        label_smoothing=0.1,
        schedule="step",
        batch_size=100,
    )
    model = initialise(partial(build, "mlp", width=32), 0)
    before, after = (
        evaluate(model, state, digits.train)[0]
        for state in (model.state_dict(), train(model, digits, recipe, 0))
    )
    assert after < 0.6 * before


def test_dropout_draws_from_the_seed_alone(small):
    make = partial(
        torch.nn.Sequential,
        torch.nn.Linear(5, 16),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(16, 3),
    )
    model, recipe = make(), Recipe(epochs=2, batch_size=8)
    first = train(model, small, recipe, 0)
    torch.rand(7)
    assert equal(first, train(model, small, recipe, 0))
    assert not equal(first, train(model, small, recipe, 1))


def test_the_model_and_the_global_generator_are_left_alone(small):
    model = torch.nn.Linear(5, 3)
    weight, state = model.weight.detach().clone(), torch.random.get_rng_state()
    train(model, small, Recipe(epochs=1, batch_size=8), 0)
    assert torch.equal(model.weight, weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.weight.grad is None


def test_a_loss_that_is_not_finite_names_step_epoch_and_seed(small):
    model = torch.nn.Linear(5, 3)
    broken = Dataset(
        "broken", Split(torch.full_like(small.train.x, torch.nan), small.train.y), small.test
    )
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 0 \(epoch 0, batch 0, seed 5\)"
    ):
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
    assert [len(x) for x, _ in batches(Split(split.x[:1], split.y[:1]), 4, torch.Generator())] == [
        1
    ]


def test_normalisation_trains_on_any_number_of_examples(digits):
    part = Dataset("part", Split(digits.train.x[:33], digits.train.y[:33]), digits.test)
    state = train(
        initialise(partial(build, "resnet", width=2), 0),
        part,
        Recipe(epochs=2, batch_size=16, lr=0.01),
        0,
    )
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=-0.1), "recipe.lr: a number of at least 0 is needed, not -0.1"),
        (dict(lr=float("nan")), "recipe.lr"),
        (dict(lr="fast"), "recipe.lr"),
        (dict(epochs=1.5), "recipe.epochs: a whole number of at least 0 is needed, not 1.5"),
        (dict(batch_size=0), "recipe.batch_size"),
        (dict(lr=1e300), "recipe.lr: a number of at most 1,000,000,000 is needed, not 1e.300"),
        (dict(epochs=10**25), "recipe.epochs: a number of at most 1,000,000,000 is needed, not 10,000"),
        (dict(epochs=6, warmup_epochs=7), "recipe.warmup_epochs: at most recipe.epochs = 6 is needed, not 7"),
        (dict(momentum=1.0), "recipe.momentum: a number of at least 0 and below 1"),
        (dict(momentum="0.9"), "recipe.momentum"),
        (dict(milestones=0.5), "recipe.milestones"),
        (dict(gamma=float("nan")), "recipe.gamma"),
        (dict(epochs=6.0), "recipe.epochs"),
        (dict(optimizer="sdg"), "did you mean 'sgd'"),
        (dict(shedule="cosine"), "did you mean 'schedule'"),
    ],
)
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
    with pytest.raises(
        ValueError, match="train: every label is 1; a classifier needs at least two classes"
    ):
        Dataset("one", Split(small.train.x, torch.ones_like(small.train.y)), small.test)
    with pytest.raises(ValueError, match="dataset: 'digit' is not known; did you mean 'digits'"):
        load("digit")
    with pytest.raises(ValueError, match="augmentation.*needs images"):
        train(torch.nn.Linear(5, 3), small, Recipe(epochs=1, augmentation="crop"), 0)


def killed(model, data, recipe, seed, checkpoint, batches):
    "Train until an interrupt in the middle of an epoch, after so many batches."
    model, left = copy.deepcopy(model), iter(range(batches))

    def count(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt
    model.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt):
        train(model, data, recipe, seed, checkpoint)


def dropping():
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 16),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(16, 10),
    )


@pytest.mark.parametrize(
    "make, changes",
    [
        (partial(build, "mlp"), {}),
        (partial(build, "mlp"), dict(momentum=0.0)),
        (partial(build, "mlp"), dict(schedule="step", warmup_epochs=2.5)),
        (partial(build, "mlp"), dict(optimizer="adam", lr=1e-3)),
        (partial(build, "mlp"), dict(optimizer="adamw", lr=1e-3, schedule="one-cycle")),
        (partial(build, "mlp"), dict(augmentation="crop+flip", crop_padding=1)),
        (dropping, {}),
        (dropping, dict(optimizer="adam", augmentation="flip")),
        (partial(build, "resnet", width=2), dict(augmentation="crop")),
    ],
)
def test_a_killed_training_ends_with_the_same_bits(digits, tmp_path, make, changes):
    recipe = Recipe(epochs=4, batch_size=200, lr=0.05).replace(**changes)
    model, checkpoint = initialise(make, 0), Checkpoint(tmp_path / "training", every=0)
    whole, steps = train(model, digits, recipe, 0), -(-len(digits.train) // recipe.batch_size)
    # in the first epoch, then each time a little further
    for done in (steps // 2, steps + 1, steps * 2 - 1):
        killed(model, digits, recipe, 0, checkpoint, done)
    assert checkpoint.path.exists()
    torch.rand(3)
    before = torch.random.get_rng_state()
    assert equal(train(model, digits, recipe, 0, checkpoint), whole)
    assert os.listdir(tmp_path) == [] and torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_lie_in_memory_in_the_order_of_their_axes(channels, augmentation):
    "However the split was made: `contiguous` cannot tell for one channel, and some processors write outside the memory of such batches."
    split = Split(torch.randn(20, 8, 8, channels).movedim(3, 1), torch.arange(20) % 2)
    for x, _ in (*batches(split, 10), *batches(split, 10, torch.Generator().manual_seed(0))):
        moved = augment(x, Recipe(augmentation=augmentation), torch.Generator().manual_seed(0))
        assert x.stride() == moved.stride() == (64 * channels, 64, 8, 1)


THIN = """
import torch
from functools import partial
from starlight_nb.data import Dataset, Split, load
from starlight_nb.models import build, initialise
from starlight_nb.training import Recipe, train
train(initialise(partial(build, "resnet", width=4), 0), load("digits"), Recipe(epochs=12, batch_size=200, lr=0.05, augmentation="crop"), 0)
split = Split(torch.randn(1400, 3, 8, 8), torch.arange(1400) % 10)
recipe = Recipe(epochs=12, batch_size=200, lr=0.05, channels_last=True)
train(initialise(partial(build, "resnet", width=4, channels_in=3), 0), Dataset("three", split, split), recipe, 0)
"""


def test_thin_networks_train_on_every_processor():
    "Told to take no newer instructions than AVX2, PyTorch 2.14.1 dies of a thin strided convolution that sees its channels side by side."
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONWARNINGS": "always"}
    ended = subprocess.run([sys.executable, "-c", THIN], env=limited, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"exit status {ended.returncode}: {ended.stderr}"
    assert ended.stderr.count("recipe.channels_last is ignored") == 1, ended.stderr


def test_a_checkpoint_at_the_very_end_is_enough(small, tmp_path):
    recipe = Recipe(epochs=2, batch_size=8)
    checkpoint = Checkpoint(tmp_path / "training", every=0, keep=True)
    model = torch.nn.Linear(5, 3)
    whole = train(model, small, recipe, 0, checkpoint)
    assert checkpoint.path.exists()
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    assert equal(train(model, small, recipe, 0, checkpoint), whole)


def _train_slowly(path, data):
    model = initialise(partial(build, "mlp", width=8), 0)
    model.register_forward_pre_hook(lambda *_: time.sleep(0.002))
    train(model, data, Recipe(epochs=300, batch_size=20), 0, Checkpoint(path, every=0))


def test_a_process_that_was_killed_goes_on(digits, tmp_path):
    path = tmp_path / "training"
    part = Dataset("part", Split(digits.train.x[:60], digits.train.y[:60]), digits.test)
    process = multiprocessing.get_context("spawn").Process(target=_train_slowly, args=(path, part))
    process.start()
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()  # SIGKILL
    process.join()
    assert path.exists()
    model = initialise(partial(build, "mlp", width=8), 0)
    recipe = Recipe(epochs=300, batch_size=20)
    seen = []
    whole = train(model, part, recipe, 0)
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(train(model, part, recipe, 0, Checkpoint(path, every=60)), whole)
    assert len(seen) < 300 * 3, "it went on, it did not begin again"
    assert not path.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[:-3],
        lambda b: b[:40],
        lambda b: b"no numbers" * 20,
        lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:],
    ],
)
def test_a_damaged_checkpoint_is_set_aside(small, tmp_path, damage):
    model = torch.nn.Linear(5, 3)
    recipe = Recipe(epochs=3, batch_size=8)
    checkpoint = Checkpoint(tmp_path / "training", every=0)
    killed(model, small, recipe, 0, checkpoint, 12)
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    with pytest.warns(
        UserWarning, match="checkpoint: training is damaged .* set aside as training.damaged"
    ):
        assert equal(train(model, small, recipe, 0, checkpoint), train(model, small, recipe, 0))
    assert os.listdir(tmp_path) == ["training.damaged"]


def test_a_checkpoint_of_another_training_is_not_used(small, tmp_path):
    model = torch.nn.Linear(5, 3)
    recipe = Recipe(epochs=3, batch_size=8)
    config = {"architecture": "linear"}
    other_data = Dataset("other", Split(small.train.x + 1, small.train.y), small.test)
    for training_and_config, what_differs in (
        ((model, small, recipe.replace(lr=0.2), 0, config), "recipe"),
        ((model, small, recipe, 1, config), "seed"),
        ((model, other_data, recipe, 0, config), "data"),
        ((torch.nn.Linear(5, 3), small, recipe, 0, config), "start"),
        ((model, small, recipe, 0, {"architecture": "line"}), "architecture"),
    ):
        killed(model, small, recipe, 0, Checkpoint(tmp_path / "training", config, every=0), 12)
        *training, other_config = training_and_config
        checkpoint = Checkpoint(tmp_path / "training", other_config)
        with pytest.warns(
            UserWarning, match=f"it holds another configuration: {what_differs} differs"
        ):
            assert equal(train(*training, checkpoint), train(*training))


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    small, tmp_path, monkeypatch
):
    model, recipe = torch.nn.Linear(5, 3), Recipe(epochs=2, batch_size=8)
    monkeypatch.setattr(
        os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.warns(
        UserWarning,
        match=f"checkpoint: not written, .*the folder {tmp_path} cannot be "
              "written to: the disk is full",
    ):
        assert equal(
            train(model, small, recipe, 0, Checkpoint(tmp_path / "training", every=0)),
            train(model, small, recipe, 0),
        )
    assert not os.listdir(tmp_path)


def test_a_checkpoint_where_no_folder_can_be_is_a_warning(small, tmp_path):
    model, recipe = torch.nn.Linear(5, 3), Recipe(epochs=1, batch_size=8)
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="a file is where a folder should be") as said:
        assert equal(
            train(model, small, recipe, 0, Checkpoint(tmp_path / "file" / "training", every=0)),
            train(model, small, recipe, 0),
        )
    assert "is left behind (Not a directory)" in str(said[-1].message)


def test_a_short_training_writes_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr("starlight_nb.runtime.store.write_tensors", None)
    train(
        torch.nn.Linear(5, 3),
        small,
        Recipe(epochs=3, batch_size=8),
        0,
        Checkpoint(tmp_path / "deep" / "training"),
    )
    assert not os.listdir(tmp_path)
