"""The profiles that are meant for a GPU, on a CPU: every network with its own recipe on 64 images
for one epoch, and what a step tells its device."""

import csv
import dataclasses
import os
import re

import pytest
import torch
from conftest import finish, make_study, measured_paths, ROOT, starlight
from test_data import make_cifar
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision import datasets

from starlight_nb.paper import study as study_module
from starlight_nb.data import Dataset, Split, available_datasets
from starlight_nb.models import build, generator, initialise
from starlight_nb.permutation import infer_spec
from starlight_nb.states import copies
from starlight_nb.training import Recipe
from starlight_nb.star import FusedObjective, Sources, StarOptions
from starlight_nb.paper.members import regular_pairs, star_pairs
from starlight_nb.paper.profiles import load_profile
from starlight_nb.training import Objective
from starlight_nb.training.loop import _TrainingState, _epoch_batches, _step
from starlight_nb.training import state_of
from starlight_nb.training.networks import FlatModule

STANDS_FOR = {
    "cifar10": "cifar10-64-32",
    "cifar100": "cifar100-64-20",
    "imagenet": "imagenette64-64-32",
}
# as others, but wider, deeper, on other data, by another recipe
SLOW = {
    "cifar10-resnet18", "cifar10-fast-resnet18", "cifar10-vgg19",
    "cifar10-wrn22-4", "cifar10-wrn22-8", "cifar10-wrn34-1", "cifar10-wrn40-1", "cifar100-densenet",
    "cifar10-resnet18-adam", "cifar10-fast-vgg11", "cifar10-fast-vgg19",
}
LARGE = ("cifar10", "cifar100", "imagenet", "cifar10-fast", "cifar100-fast")


def settings():
    "Each network with each recipe once, in the first profile that has it."
    found = {}
    for profile in LARGE:
        for setting in load_profile(profile).settings.values():
            data = setting.dataset if profile in ("cifar10", "cifar100", "imagenet") else "cifar10"
            found.setdefault(
                (data, setting.architecture, str(setting.model), str(setting.recipe)),
                (profile, setting),
            )
    return [
        pytest.param(profile, setting, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for profile, setting in found.values()
        for name in [f"{profile}-{setting.name}"]
    ]


@pytest.fixture
def small_data(request, tmp_path, monkeypatch):
    """The name of a set of 64 images that stands for the setting's own; STARLIGHT_DATA names its
    folder."""
    name = request.getfixturevalue("setting").dataset
    if name == "cifar100":
        make_cifar(tmp_path / "data", datasets.CIFAR100, monkeypatch)
        monkeypatch.setenv("STARLIGHT_DATA", str(tmp_path / "data"))
    elif not (root := os.environ.get("STARLIGHT_DATA")) or STANDS_FOR[name].split("-")[
        0
    ] not in available_datasets(root):
        pytest.skip(f"the files of {STANDS_FOR[name]} are not in STARLIGHT_DATA")
    study_module._spec_once.cache_clear()
    yield STANDS_FOR[name]
    study_module._spec_once.cache_clear()


@pytest.mark.parametrize("profile, setting", settings())
def test_one_epoch_on_64_images(profile, setting, small_data, tmp_path):
    """Two sources, two held-out solutions, a star and a matched path of three points; a compiler is
    not needed."""
    recipe = setting.recipe.replace(epochs=1, compile=False)
    small = dataclasses.replace(
        setting, dataset=small_data, recipe=recipe, star_recipe=recipe, sources=2, heldouts=2
    )
    study = make_study(small, tmp_path / "store", points=3)
    held, stars = study.members("heldout", 2), study.stars([2], 1)
    frame = measured_paths(study, regular_pairs(held) + star_pairs(stars, held[:1], 0))
    assert frame.value.notna().all()
    assert set(frame.split) == {"train", "test"}
    assert len(frame[frame.metric == "loss_barrier"]) == 4
    assert study.models.spec().coverage == 1, "complete matching"


def test_the_tiny_profile_end_to_end(tmp_path):
    """All of its experiments through the runner, on 64 images; the DenseNet's row has complete
    matching next to none."""
    root = os.environ.get("STARLIGHT_DATA")
    if not root or "cifar10" not in available_datasets(root):
        pytest.skip("the files of cifar10 are not in STARLIGHT_DATA")
    text = (ROOT / "nbs/experiments/profiles/cifar10-tiny.toml").read_text()
    text = re.sub(r'"cifar10-[0-9-]+"', '"cifar10-64-32"', text)
    text = re.sub(r"epochs = \d+", "epochs = 1", text)
    text = re.sub(r"measured_examples = \d+", "measured_examples = 32", text)
    (tmp_path / "tiny.toml").write_text(text)
    status, out, error = finish(
        starlight(
            "reproduce", "--profile", str(tmp_path / "tiny.toml"), "--jobs", "1", folder=tmp_path
        )
    )
    assert status == 0, out + error
    rows = {
        row["setting"]: row
        for row in csv.DictReader((tmp_path / "report/tables/table1_barriers.csv").open())
    }
    dense, = (row for name, row in rows.items() if "DenseNet" in name)
    assert len(rows) == 2
    assert all(
        re.match(r"\d", dense[column])
        for column in ("regular-regular, unmatched", "regular-regular", "star-heldout")
    )
    assert {path.stem for path in (tmp_path / "report/notebooks").iterdir()} == {
        "beyond_transformer",
        "fig1_source_count",
        "fig3_paths",
        "table1_barriers",
    }


class Crossings(TorchDispatchMode):
    """Counts operations that have tensors on two devices; a device that has no data, as `meta`,
    cannot be asked for a value at all."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if (
            len(
                {
                    leaf.device.type
                    for leaf in tree_leaves((arguments, options, out))
                    if torch.is_tensor(leaf) and leaf.ndim
                }
            )
            > 1
        ):
            self.seen.append(str(function))
        return out


def epoch_on_meta(batch_size, star):
    """Crossings of all steps of an epoch of 64 images on the device `meta`, from which nothing can
    come back."""
    recipe = Recipe(batch_size=batch_size, augmentation="crop+flip", channels_last=True)
    split = object.__new__(Split)  # whose labels cannot be looked at
    object.__setattr__(split, "x", torch.empty(64, 3, 8, 8, device="meta"))
    object.__setattr__(split, "y", torch.zeros(64, dtype=torch.long, device="meta"))
    data = object.__new__(Dataset)
    object.__setattr__(data, "train", split)
    model = initialise(lambda: build("resnet", width=4, channels_in=3), 0)
    spec, objective = infer_spec(model, torch.randn(2, 3, 8, 8)), Objective()
    model = model.to("meta")
    if star:
        sources = Sources(model, [state_of(model)] * 2, spec, matching="activations", in_memory=True)
        options = StarOptions(rematch_every=None, segments_per_batch=2, own_loss_weight=1.0)
        objective = FusedObjective(sources, options, generator(0, "draws"))
    state = _TrainingState(FlatModule(model, recipe), recipe, [0], objective)
    with Crossings() as crossings:
        for x, y in _epoch_batches(data, recipe, state.generators):
            _step(state, x, y, 0.1)
    return crossings.seen


@pytest.mark.parametrize("star", [False, True])
def test_a_loop_copies_nothing_to_its_device_or_back(star, monkeypatch):
    """What an epoch draws goes to the device once, however many steps there are, and no step waits
    for an answer."""
    monkeypatch.setattr(copies, "_check_values", lambda model: None)  # it refuses `meta`
    few, many = (epoch_on_meta(size, star) for size in (32, 8))
    assert few == many and len(few) == 2, few
