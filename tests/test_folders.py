"""Folders of images that are read by the batch: the same bits as from memory, in little memory."""
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, make_study, measured_paths
from PIL import Image
from torch import nn
from torchvision import datasets, transforms

from starlight_nb.barriers import path_losses
from starlight_nb.bma import average_predictions, sample_star_domain
from starlight_nb.checks import check_model
from starlight_nb.data import IMAGENET, CorpusError, Dataset, Split, batches, load, load_folders
from starlight_nb.data import shifted, shuffled_rows
from starlight_nb.data.folders import WORTH_WORKER, ImageFiles, read_all
from starlight_nb.evaluation import evaluate, refresh_batchnorm
from starlight_nb.matching import match_activations
from starlight_nb.models import initialise
from starlight_nb.paper import profiles
from starlight_nb.paper.averages import AveragePart, posteriors
from starlight_nb.paper.costs import measure_cost
from starlight_nb.paper.members import _load_once, network_of, regular_pairs, star_pairs
from starlight_nb.paper.predictors import PredictorPart, predictors
from starlight_nb.permutation import infer_spec
from starlight_nb.runtime.settings import Settings
from starlight_nb.runtime.store import Checkpoint
from starlight_nb.star import train_star
from starlight_nb.states import state_of
from starlight_nb.training import Recipe, plan_population, train, train_population, train_stacked

CLASSES, SIZE = 3, 32
RECIPE = Recipe(epochs=2, batch_size=32, lr=0.05, augmentation="crop+flip", crop_padding=2)


def make_jpegs(root, train=132, test=31, size=(48, 40)):
    "A folder like Imagenette's: noise around a shade for each of three classes."
    rng = np.random.default_rng(0)
    for number in range(train + test):
        label = number % CLASSES
        folder = Path(root, "imagenette2", "train" if number < train else "val", f"class{label}")
        folder.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 80, (*size, 3)) + 70 * label
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:05d}.JPEG")
    return Path(root)


def make_net():
    "A tiny convolutional network."
    return nn.Sequential(nn.Conv2d(3, 6, 5, 4), nn.BatchNorm2d(6), nn.ReLU(),
                         nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(6, CLASSES))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_jpegs(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def held(root):
    return load_folders("imagenette", root, SIZE, in_memory=True)


@pytest.fixture(params=[0, 2], ids=["here", "workers"])
def read(root, request, monkeypatch):
    "The images by the batch, read by this process or by two workers."
    monkeypatch.setattr("starlight_nb.data.folders._count_workers", lambda images: request.param)
    return load_folders("imagenette", root, SIZE, in_memory=False)


@pytest.fixture(scope="module")
def solutions(held):
    return train_population(make_net, held, RECIPE, seeds=range(3))


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_in_memory_they_are_what_they_were(root, held):
    "Bits and digest are those of torchvision's own classes, all read at once."
    change = transforms.Compose([transforms.Resize(round(SIZE * 8 / 7)), transforms.CenterCrop(SIZE),
                                 transforms.PILToTensor()])
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    parts = []
    for part in ("train", "val"):
        folder = datasets.ImageFolder(root / "imagenette2" / part, change)
        rows = shuffled_rows(len(folder)).tolist() if part == "train" else range(len(folder))
        x = torch.stack([folder[row][0] for row in rows]).float().div_(255).sub_(mean).div_(std)
        parts.append(Split(x, torch.tensor([folder.targets[row] for row in rows])))
    assert isinstance(held.train, Split) and torch.equal(held.train.x, parts[0].x)
    assert held.digest == Dataset("plain", *parts).digest


def test_batches_have_the_same_bits(held, read):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    for part, right in zip(read.splits.values(), held.splits.values()):
        assert isinstance(part, ImageFiles) and len(part) == len(right)
        for size in (1, 10, 30, 33, 500):
            for seeds in ((), (3,), (3, 4, 3)):
                pairs = [batches(own, size, seeded(*seeds)[0] if len(seeds) == 1 else seeded(*seeds) or None)
                         for own in (part, right)]
                for one, other in zip(*pairs, strict=True): assert all(map(torch.equal, one, other))
            assert part.batch_sizes(size) == right.batch_sizes(size)
        for method in ("first", "spread"):
            assert torch.equal(getattr(part, method)(7), getattr(right, method)(7))
        assert torch.equal(part.targets(), right.y) and part.largest_label == right.largest_label
        some = part.subset(9)
        assert torch.equal(read_all(some).x, right.x[:9]) and len(some) == 9
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1] == after[1]


def test_a_pass_can_be_left_and_several_can_run_at_once(held, read):
    first, second = batches(read.train, 8), batches(read.train, 8, seeded(1)[0])
    for _ in range(3): pairs = next(first), next(second)
    del first
    assert torch.equal(pairs[0][0], held.train.x[16:24])
    right = list(batches(held.train, 8, seeded(1)[0]))[2:]
    for one, other in zip([pairs[1], *second], right, strict=True): assert all(map(torch.equal, one, other))


def test_measurements_and_trainings_have_the_same_bits(held, read, solutions):
    for split in ("train", "test"):
        found = [evaluate(make_net(), solutions[0], data.splits[split]) for data in (held, read)]
        assert found[0] == found[1]
    found = [refresh_batchnorm(make_net(), solutions[0], data.train) for data in (held, read)]
    assert same(*found)
    curves = [path_losses(make_net(), *solutions[:2], data, 3) for data in (held, read)]
    assert curves[0].loss["train"].tolist() == curves[1].loss["train"].tolist()
    assert curves[0].loss["test"].tolist() == curves[1].loss["test"].tolist()
    trained = train(initialise(make_net, 0), read, RECIPE, 0)
    assert same(trained, solutions[0])  # trained in memory, with augmentation


def test_stars_have_the_same_bits(held, read, solutions):
    spec = infer_spec(make_net(), read.train.first(2))
    stars = [train_star(initialise(make_net, 5), solutions[:2], data, RECIPE.replace(epochs=1), spec=spec)
             for data in (held, read)]
    assert same(stars[0].state, stars[1].state)
    matches = [match_activations(spec, *solutions[:2], model=make_net(), data=data).permutation for data in (held, read)]
    assert same(*matches)
    drawn = [sample_star_domain(stars[0].state, solutions[:2], 2, seeded(0)[0], model=make_net(), data=data)
             for data in (held, read)]
    found = [average_predictions(make_net(), draws, data.test) for draws, data in zip(drawn, (held, read))]
    assert torch.equal(*found)
    verdicts = check_model(make_net(), read.train.first(2), read).to_frame().set_index("what").verdict
    assert "measured statistics" in verdicts and not (verdicts == "wrong").any()


def test_populations_are_trained_in_processes(root):
    "Processes whose own worker processes read the images; and stacks, here."
    data = load_folders("imagenette", root, SIZE, in_memory=False)
    rows = torch.arange(3 * WORTH_WORKER) % len(data.train)
    parts = replace(data.train, files=data.train.files[rows.numpy()], y=data.train.y[rows]), data.test
    read, held = Dataset("many", *parts), Dataset("many", *map(read_all, parts))
    plan = plan_population(make_net(), read, RECIPE, 2, jobs=2)
    assert plan.backend == "processes" and "share random numbers" in str(plan)
    states = train_population(make_net, read, RECIPE, seeds=range(2), jobs=2)
    assert all(map(same, states, train_population(make_net, held, RECIPE, seeds=range(2))))
    mlp = partial(nn.Linear, 3 * SIZE**2, CLASSES)
    models = [initialise(lambda: nn.Sequential(nn.Flatten(), mlp()), seed) for seed in range(2)]
    stacks = [train_stacked(models, data, RECIPE, [0, 1]) for data in (held, read)]
    assert all(map(same, *stacks))


class Interrupted(nn.Module):
    "Raises KeyboardInterrupt after so many calls."
    def __init__(self, model, calls):
        super().__init__()
        self.model, self.left = model, calls
    def forward(self, x):
        self.left -= 1
        if self.left < 0: raise KeyboardInterrupt
        return self.model(x)


def test_an_interrupted_training_resumes_with_the_same_bits(read, tmp_path):
    checkpoint, recipe = Checkpoint(tmp_path / "training", every=0), RECIPE.replace(epochs=3)
    whole = train(Interrupted(initialise(make_net, 0), 10**6), read, recipe, 1)
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(initialise(make_net, 0), 8), read, recipe, 1, checkpoint)
    assert checkpoint.path.exists()
    resumed = train(Interrupted(initialise(make_net, 0), 10), read, recipe, 1, checkpoint)
    assert same(whole, resumed) and not checkpoint.path.exists()


def test_identity(root, tmp_path, read):
    same_again = load_folders("imagenette", root, SIZE, in_memory=False)
    assert same_again.digest == read.digest
    assert load_folders("imagenette", root, SIZE + 1, in_memory=False).digest != read.digest
    assert load_folders("imagenette", root, SIZE, 20, in_memory=False).digest != read.digest
    copied = make_jpegs(tmp_path)
    assert load_folders("imagenette", copied, SIZE, in_memory=False).digest == read.digest
    path = copied / "imagenette2" / "val" / "class0" / "00132.JPEG"
    path.write_bytes(path.read_bytes() + b" ")
    assert load_folders("imagenette", copied, SIZE, in_memory=False).digest != read.digest
    data = load_folders("imagenette", copied, SIZE, in_memory=False)
    path.unlink()
    with pytest.raises(CorpusError, match="damaged: .*00132.JPEG\nreading them: FileNotFoundError"):
        data.digest


def test_the_first_images(root, monkeypatch, held):
    "A count in the name takes the same images by the batch as in memory."
    monkeypatch.setattr("starlight_nb.data.folders.MOST_OF_MEMORY", 0)
    few = load("imagenette64-40-9", root)
    assert isinstance(few.train, ImageFiles) and (len(few.train), len(few.test)) == (40, 9)
    monkeypatch.undo()
    right = load("imagenette64-40-9", root)
    assert isinstance(right.train, Split)
    for name, part in few.splits.items(): assert torch.equal(part.first(50), right.splits[name].x)
    assert torch.equal(few.train.y, held.train.y[:40])
    with pytest.raises(ValueError, match="asks for 5000 training examples, 'imagenette' has 132"):
        load("imagenette64-5000", root)


def test_what_needs_images_in_memory_says_so(read):
    with pytest.raises(ValueError, match="split: images .* in memory are needed, not ImageFiles"):
        shifted(read.test, "moved")


def test_damaged_files_are_named(tmp_path):
    make_jpegs(tmp_path)
    path = tmp_path / "imagenette2" / "train" / "class2" / "00002.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    message = f"'imagenette' are damaged: {path}\nreading them: .*\nwhole files are needed"
    with pytest.raises(CorpusError, match=message): load_folders("imagenette", tmp_path, SIZE, in_memory=True)
    data = load_folders("imagenette", tmp_path, SIZE, in_memory=False)
    with pytest.raises(CorpusError, match=message): evaluate(make_net(), state_of(make_net()), data.train)
    repeated = np.resize(data.train.files, 3 * WORTH_WORKER)  # so many that workers read them
    y = torch.from_numpy(np.resize(data.train.y.numpy(), 3 * WORTH_WORKER))
    many = Dataset("many", replace(data.train, files=repeated, y=y), data.test)
    with pytest.raises(CorpusError, match=message): train(make_net(), many, RECIPE, 0)


def study_of(root, store, monkeypatch):
    "A study of a small ResNet on 40 images of 64 x 64 pixels."
    monkeypatch.setenv("STARLIGHT_DATA", str(root))
    setting = profiles.load_profile("smoke").settings["resnet"]
    recipe = setting.recipe.replace(epochs=1, batch_size=20, augmentation="flip")
    small = replace(setting, dataset="imagenette64-40-12", model={"channels_in": 3, "width": 4},
                    recipe=recipe, star_recipe=recipe)
    _load_once.cache_clear()
    return make_study(small, store, points=3, jobs=1)


def rows_of(study):
    "Tidy rows of paths, averages and predictors of a study, and its digest."
    heldouts, stars = study.members("heldout", 2), study.stars([2], 1)
    frames = [measured_paths(study, regular_pairs(heldouts) + star_pairs(stars, heldouts[:1], 0))]
    averaged = posteriors(study.members("source", 2), stars, 1, [2])
    frames.append(AveragePart(study, averaged, resamples=20).rows())
    frames.append(PredictorPart(study, predictors(study, [2], 1, 1, 0)).rows())
    return frames, study.models.data


def test_a_study_has_the_same_numbers(root, tmp_path, monkeypatch):
    """Everything that a profile measures; shifts of test images need images in memory, and are left
    out of the averages."""
    frames, data = rows_of(study_of(root, tmp_path / "held", monkeypatch))
    assert isinstance(data.train, Split)
    monkeypatch.setattr("starlight_nb.data.folders.MOST_OF_MEMORY", 0)
    study = study_of(root, tmp_path / "read", monkeypatch)
    again, data = rows_of(study)
    assert isinstance(data.train, ImageFiles)
    shifts = frames[1].split.str.startswith("test-")
    frames[1] = frames[1][~shifts].reset_index(drop=True)
    assert shifts.any() and len(frames[0]) and len(frames[2])
    for one, other in zip(frames, again): pd.testing.assert_frame_equal(one, other)
    assert network_of(study.setting)["shape"] == [3, 64, 64]
    profiles.check_fits(study.setting, data)
    cost = measure_cost(study.setting, Settings.from_environment(jobs=1), steps=2)
    assert cost.examples == (40, 12) and min(cost.step, cost.evaluation, cost.forward, cost.refresh) > 0
    _load_once.cache_clear()


CAPPED = """
import re, resource, sys
from functools import partial
from pathlib import Path
import torch
from torch import nn
from starlight_nb.barriers import path_losses
from starlight_nb.data import Dataset, Split, load, load_folders
from starlight_nb.data.folders import ImageFiles
from starlight_nb.models import initialise
from starlight_nb.star import train_star
from starlight_nb.states import state_of
from starlight_nb.training import Recipe

SIZE, MARGIN = 224, 56e6

def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.Conv2d(4, 4, 3, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def measure_and_train(data):
    models = [initialise(make_net, seed) for seed in range(3)]
    states = [state_of(model) for model in models]
    curve = path_losses(models[0], *states[:2], data, 3)
    star = train_star(models[2], states[:2], data, Recipe(epochs=1, batch_size=4, lr=0.01,
                                                          augmentation="crop+flip"))
    return curve, star

few = load_folders("imagenette", sys.argv[1], SIZE, count=20, in_memory=True)
measure_and_train(few)  # imports what is imported on first use
used = 1024 * int(re.search("VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
cap = int(used + MARGIN)
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
data = load("imagenette", sys.argv[1])
assert isinstance(data.train, ImageFiles)
assert 4 * 3 * SIZE**2 * len(data.train) >= 10 * MARGIN
curve, star = measure_and_train(data)
assert len(curve.ts) == 3 and all(tensor.isfinite().all() for tensor in star.state.values())
try: load_folders("imagenette", sys.argv[1], SIZE, in_memory=True)
except (RuntimeError, MemoryError) as error: print("in memory:", type(error).__name__, error)
else: sys.exit("the images fit into memory, so that the test shows nothing")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts other memory elsewhere")
def test_ten_times_the_memory(tmp_path):
    """A path and an epoch of a star on images whose numbers take ten times the memory that is left.

    The limit is RLIMIT_DATA: the private writable memory of each process, workers too. RLIMIT_AS
    would also count libraries, and addresses that are reserved and never used. What was in use
    after all imports is allowed on top, so what is limited is what the data may take."""
    make_jpegs(tmp_path, train=15, test=15)
    for label in range(CLASSES):
        folder = tmp_path / "imagenette2" / "train" / f"class{label}"
        for n, path in enumerate(sorted(folder.iterdir()) * 62):
            (folder / f"link{n:05d}.JPEG").hardlink_to(path)
    done = subprocess.run([sys.executable, "-c", CAPPED, str(tmp_path)], cwd=ROOT, text=True,
                          capture_output=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "2"})
    assert done.returncode == 0, done.stderr
    assert "in memory: " in done.stdout and "memory" in done.stdout.split(":", 1)[1]
