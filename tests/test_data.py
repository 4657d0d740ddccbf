"""Published data sets: files in their official formats, small ones made here and the real ones
where STARLIGHT_DATA has them."""

import gzip
import hashlib
import http.server
import os
import pickle
import socket
import tarfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import make_study
import torch
from PIL import Image
from torchvision import datasets

import starlight_nb.data as data_module
from starlight_nb.paper import cli, runner
from starlight_nb.data import CorpusError, ImageFiles, Split, read_images, shuffled_rows
from starlight_nb.data import IMAGENET, LOADERS, PIXELS, available_datasets, load, load_digit_pairs
from starlight_nb.models import build, initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.paper.profiles import load_profile
from starlight_nb.training import Recipe, train

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nobody listens
SILENCE = 0.5


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    "No test of this file asks a server outside."
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "url", NOWHERE + kind.filename)
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [NOWHERE])
    monkeypatch.setattr(data_module, "NEWS", NOWHERE)


@pytest.fixture
def serve(request):
    "Serve a folder from this machine; returns the address."
    def start(folder):
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        request.addfinalizer(server.server_close)
        request.addfinalizer(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"
    return start


md5 = lambda path: hashlib.md5(path.read_bytes()).hexdigest()
# image n is filled with n
numbered = lambda count, size: np.arange(count, dtype=np.uint8)[:, None].repeat(size, 1)


def make_cifar(folder, kind, patch):
    "100 training images and 20 test images in CIFAR's format; torchvision is told their checksums."
    folder = folder / kind.base_folder
    folder.mkdir(parents=True)
    key, classes = ("fine_labels", 100) if kind is datasets.CIFAR100 else ("labels", 10)
    parts = {name: 100 // len(kind.train_list) for name, _ in kind.train_list} | {
        name: 20 for name, _ in kind.test_list
    }
    first = 0
    for name, count in parts.items():
        first = 0 if name in dict(kind.test_list) else first
        images = numbered(100, 3072)[first:first + count]
        (folder / name).write_bytes(
            pickle.dumps(
                {"data": images, key: [int(row[0]) % classes for row in images]}, protocol=2
            )
        )
        first += count
    (folder / kind.meta["filename"]).write_bytes(
        pickle.dumps({kind.meta["key"]: [str(n) for n in range(classes)]}, protocol=2)
    )
    for list_name in ("train_list", "test_list"):
        patch.setattr(
            kind, list_name, [[name, md5(folder / name)] for name, _ in getattr(kind, list_name)]
        )
    patch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / kind.meta["filename"])})
    return folder


def make_mnist(folder, kind, patch):
    """100 training images and 20 test images as MNIST's four archives; torchvision is told their
    checksums."""
    folder = folder / kind.__name__ / "raw"
    folder.mkdir(parents=True)
    for (name, _), count in zip(kind.resources, (100, 100, 20, 20)):
        shape, rows = (
            ((count, 28, 28), numbered(count, 784))
            if "images" in name
            else ((count,), numbered(count, 1) % 10)
        )
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        (folder / name).write_bytes(gzip.compress(head + rows.tobytes(), mtime=0))
    patch.setattr(kind, "resources", [(name, md5(folder / name)) for name, _ in kind.resources])
    return folder


def make_images(folder):
    "An ImageFolder: 30 training and 6 test images of three classes."
    for part, count in (("train", 30), ("val", 6)):
        for n in range(count):
            (folder / part / "abc"[n % 3]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30, 3), n, np.uint8)).save(
                folder / part / "abc"[n % 3] / f"{n:02d}.png"
            )


def make_news(folder, rows=400):
    "AG News in three columns; the words of the title tell the class."
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, count in (("train", rows), ("test", rows // 4)):
        lines = [
            f'"{n % 4 + 1}","Topic{n % 4} w{draw.integers(9)}","Text {n}, with ""quotes"": and '
            f'(brackets).{" more" * (n % 3)}"'
            for n in range(count)
        ]
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")


def numbers(x, name):
    "Which images these were, from the bytes that their pixels had."
    mean, std = (torch.tensor(values)[:, None, None] for values in PIXELS[name])
    bytes_ = (x.double() * std + mean) * 255
    assert (bytes_ - bytes_.round()).abs().max() < 1e-3
    assert (bytes_.flatten(1) - bytes_[:, 0, 0, 0, None]).abs().max() < 1e-3
    return bytes_[:, 0, 0, 0].round().int().tolist()


KINDS = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "mnist": datasets.MNIST,
    "fashion-mnist": datasets.FashionMNIST,
}
make_kind = lambda name, *arguments: (make_cifar if "cifar" in name else make_mnist)(*arguments)


@pytest.mark.parametrize("name", KINDS)
def test_the_splits_are_those_of_the_paper_and_the_same_each_time(name, tmp_path, monkeypatch):
    make_kind(name, tmp_path, KINDS[name], monkeypatch)
    data, again = load(name, tmp_path), load(name, tmp_path)
    assert data.digest == again.digest
    assert data.train.x.dtype == torch.float32
    assert data.train.y.dtype == torch.int64
    order = torch.randperm(100, generator=torch.Generator().manual_seed(42)).tolist()
    classes = 100 if name == "cifar100" else 10
    for part, wanted in (("train", order[:90]), ("val", order[90:]), ("test", list(range(20)))):
        split = data.splits[part]
        assert numbers(split.x, name) == wanted
        assert split.y.tolist() == [n % classes for n in wanted]
        assert split.x.shape[1:] == ((3, 32, 32) if "cifar" in name else (1, 28, 28))
    few = load(f"{name}-30", tmp_path)
    assert numbers(few.train.x, name) == order[:30]
    assert few.train.y.tolist() == data.train.y[:30].tolist()
    assert torch.equal(few.test.x, data.test.x) and few.digest != data.digest
    with pytest.raises(
        ValueError, match=f"dataset: '{name}-91' asks for 91 training examples, '{name}' has 90"
    ):
        load(f"{name}-91", tmp_path)
    assert available_datasets(tmp_path) == ["digits", "digit-pairs", name]


@pytest.mark.parametrize(
    "name", [*data_module.TORCHVISION, *data_module.FOLDERS, "imagenet64", "imagenette64", "cifar10-5000"]
)
def test_missing_files_are_one_clear_error_and_leave_nothing(name, tmp_path):
    with pytest.raises(CorpusError) as error:
        load(name, tmp_path / "data")
    asked, expected, why, rest = str(error.value).splitlines()
    assert asked.startswith(
        f"dataset: the files of {name.removesuffix('64').removesuffix('-5000')!r} are "
        f"not in {tmp_path / 'data'}"
    )
    assert expected.startswith("expected there: ") and "STARLIGHT_DATA names another folder" in rest
    downloaded = name.removesuffix("-5000") in {*data_module.TORCHVISION, "agnews"}
    assert why.startswith(
        "they could not be downloaded: " if downloaded else "they have to be brought there by hand"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_is_cut_off_is_named(name, tmp_path, monkeypatch):
    folder = make_kind(name, tmp_path, KINDS[name], monkeypatch)
    load(name, tmp_path)  # unpacks MNIST's archives
    for file in sorted(path for path in folder.iterdir() if path.suffix != ".gz"):
        whole = file.read_bytes()
        for part in (whole[:len(whole) // 2], whole[:3], b""):
            file.write_bytes(part)
            with pytest.raises(
                CorpusError, match="dataset: the files of .* are damaged: "
            ) as error:
                load(name, tmp_path)
            assert str(error.value).splitlines()[0].endswith(f"damaged: {file}")
        file.write_bytes(whole)
    load(name, tmp_path)


def test_images_of_one_set_and_labels_of_another(tmp_path, monkeypatch):
    folder = make_mnist(tmp_path, datasets.MNIST, monkeypatch)
    load("mnist", tmp_path)
    (folder / "train-labels-idx1-ubyte").write_bytes(
        (folder / "t10k-labels-idx1-ubyte").read_bytes()
    )
    with pytest.raises(CorpusError, match="100 images have 20 labels"):
        load("mnist", tmp_path)


def make_archive(tmp_path, monkeypatch):
    "CIFAR-100's archive, of the small set, in a folder to serve."
    folder = make_cifar(tmp_path / "made", datasets.CIFAR100, monkeypatch)
    (tmp_path / "served").mkdir()
    archive = tmp_path / "served" / datasets.CIFAR100.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(archive))
    return archive


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_missing_is_downloaded_once(tmp_path, monkeypatch, serve):
    archive = make_archive(tmp_path, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR100, "url", serve(archive.parent) + archive.name)
    monkeypatch.setenv("STARLIGHT_DATA", str(tmp_path / "data"))
    before = socket.getdefaulttimeout()
    data = load("cifar100")
    assert data.num_classes == 100 and socket.getdefaulttimeout() == before
    assert files_below(tmp_path / "data") == [
        f"cifar-100-python/{name}" for name in ("meta", "test", "train")
    ]
    archive.unlink()
    assert load("cifar100").digest == data.digest


def test_archives_that_are_there_need_no_network(tmp_path, monkeypatch):
    archive = make_archive(tmp_path, monkeypatch)
    (tmp_path / "data").mkdir()
    archive.rename(tmp_path / "data" / archive.name)
    load("cifar100", tmp_path / "data")
    assert files_below(tmp_path / "data") == [
        "cifar-100-python.tar.gz",
        *(f"cifar-100-python/{name}" for name in ("meta", "test", "train")),
    ]


def test_a_download_that_is_not_what_was_published_leaves_nothing(tmp_path, monkeypatch, serve):
    archive = make_archive(tmp_path, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR100, "url", serve(archive.parent) + archive.name)
    archive.write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(
        CorpusError, match="they could not be downloaded: RuntimeError: File not found or corrupted"
    ):
        load("cifar100", tmp_path / "data")
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


def test_a_silent_server_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "PATIENCE", SILENCE)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        monkeypatch.setattr(
            datasets.CIFAR10, "url", f"http://127.0.0.1:{server.getsockname()[1]}/cifar"
        )
        began = time.monotonic()
        with pytest.raises(CorpusError, match="they could not be downloaded: .*timed out"):
            load("cifar10", tmp_path / "data")
        assert time.monotonic() - began < 10 * SILENCE
    assert not list(tmp_path.iterdir())


def test_a_download_that_is_stopped_between_files_goes_on(tmp_path, monkeypatch):
    folder, replace, moved = make_mnist(tmp_path, datasets.MNIST, monkeypatch), os.replace, []

    def stop_at_the_third(source, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(replace(source, target))
    monkeypatch.setattr(os, "replace", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", tmp_path)
    monkeypatch.setattr(os, "replace", replace)
    assert len([path for path in folder.iterdir() if path.suffix != ".gz"]) == 2
    assert not list(tmp_path.glob(".*"))
    assert "mnist" not in available_datasets(tmp_path) and len(load("mnist", tmp_path).train) == 90


def test_news_are_downloaded_whole_or_not_at_all(tmp_path, monkeypatch, serve):
    make_news(tmp_path / "served")
    monkeypatch.setattr(data_module, "NEWS", serve(tmp_path / "served"))
    with pytest.raises(
        CorpusError, match="they could not be downloaded: RuntimeError: File not found or corrupted"
    ):
        load("agnews", tmp_path / "data")  # these are not the published files
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(
        data_module, "NEWS_MD5", {name: md5(tmp_path / "served" / name) for name in data_module.NEWS_MD5}
    )
    load("agnews", tmp_path / "data")
    assert files_below(tmp_path / "data") == ["ag_news_csv/test.csv", "ag_news_csv/train.csv"]


def test_news_are_rows_of_token_numbers(tmp_path):
    make_news(tmp_path / "ag_news_csv")
    data = load("agnews", tmp_path)
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (380, 20, 100, 4)
    order = shuffled_rows(400)
    assert torch.equal(torch.cat([data.train.y, data.val.y]), order % 4)
    assert data.digest == load("agnews", tmp_path).digest
    x = torch.cat([data.train.x, data.val.x])
    # every number stands for a token of the training file
    assert (x[x > 0].min() >= 1 and x.max() == len(x.unique()) - 1)
    assert data.test.x.max() <= x.max() and len({tuple(row) for row in x.tolist()}) == 400
    assert torch.equal(load("agnews-40", tmp_path).train.x, data.train.x[:40])
    (tmp_path / "ag_news_csv").rename(tmp_path / "ag_news_small")
    assert (
        load("agnews-small", tmp_path).digest
        == data.digest
        == load("agnews", tmp_path / "ag_news_small").digest
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bag_of_words_learns_from_them(dtype, tmp_path):
    make_news(tmp_path / "ag_news_csv")
    data = load("agnews", tmp_path)
    model = initialise(partial(build, "text_bag", vocabulary=1000, width=8), 0).to(dtype)
    spec = infer_spec(model, data.train.x[:2])
    assert spec.groups == {"embedding": 8}
    state = train(model, data, Recipe(epochs=1, batch_size=10, optimizer="adam", lr=0.05), 0)
    assert state["embedding.weight"].dtype == dtype
    outputs = [
        torch.func.functional_call(model, weights, (data.test.x,))
        for weights in (state, permute(spec, spec.random(torch.Generator().manual_seed(0)), state))
    ]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12 if dtype is torch.float64 else 1e-5)
    assert (outputs[0].argmax(1) == data.test.y).float().mean() > 0.9


def test_folders_of_images(tmp_path):
    make_images(tmp_path / "imagenet")
    data = load("imagenet64", tmp_path)
    assert data.train.x.shape == (30, 3, 64, 64) and data.val is None and data.num_classes == 3
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    shades = [
        ((part.x * std + mean) * 255).mean((1, 2, 3)).round().int().tolist()
        for part in (data.train, data.test)
    ]
    # an ImageFolder goes class by class
    by_class = [n for label in range(3) for n in range(label, 30, 3)]
    assert shades == [[by_class[row] for row in shuffled_rows(30)], [0, 3, 1, 4, 2, 5]]
    assert data.train.y.tolist() == [n % 3 for n in shades[0]]
    few, whole = load("imagenet-5", tmp_path / "imagenet"), load("imagenet", tmp_path)
    assert few.train.x.shape == (5, 3, 224, 224) and torch.equal(few.train.x, whole.train.x[:5])
    (tmp_path / "imagenet").rename(tmp_path / "imagenette2-160")
    assert load("imagenette64", tmp_path).digest == data.digest
    assert available_datasets(tmp_path)[2:] == ["imagenette", "imagenette64"]


def test_damaged_folders_of_images(tmp_path):
    make_images(tmp_path)
    path = tmp_path / "train" / "a" / "00.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorpusError, match="are damaged: .*/train/a/00.png\nreading them: "):
        load("imagenet64", tmp_path)
    for image in (tmp_path / "val" / "a").iterdir():
        image.unlink()
    with pytest.raises(
        CorpusError,
        match="damaged: .*\nreading them: FileNotFoundError: Found no valid file for the classes a",
    ):
        load("imagenet64", tmp_path)
    (tmp_path / "val" / "a").rmdir()
    with pytest.raises(CorpusError, match="train/ and val/ have different classes"):
        load("imagenet64", tmp_path)


def test_more_than_the_memory_holds(tmp_path, monkeypatch):
    "Images for which there is room in all are held; where it is not free now, the error says so."
    make_images(tmp_path)
    memory = type("Memory", (), {"available": 10**6, "total": 10**9})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    with pytest.raises(
        CorpusError,
        match="36 images of 'imagenet' at 224x224 need 0.0 GB of memory\n0.0 GB are free",
    ):
        load("imagenet", tmp_path)
    with pytest.raises(CorpusError, match="8 images of 'imagenet' at 224x224"):
        load("imagenet-2", tmp_path)
    memory.total = 10**7
    assert isinstance(load("imagenet", tmp_path).train, ImageFiles)
    memory.available = memory.total = 10**8
    assert isinstance(load("imagenet", tmp_path).train, Split)


def test_pairs_are_made_of_images_of_their_own_part(digits):
    pairs = load_digit_pairs()
    for part in ("train", "test"):
        known = {
            (tuple(x.flatten().tolist()), y.item())
            for x, y in zip(digits.splits[part].x, digits.splits[part].y)
        }
        split = pairs.splits[part]
        halves = [(tuple(half.flatten().tolist()), label.item()) for x, y in zip(split.x, split.y)
                  for half, label in ((x[:, :, :8], y // 10), (x[:, :, 8:], y % 10))]
        assert set(halves) <= known
        assert split.y.bincount().tolist() == [len(split) // 100] * 100


def test_loaders_of_ones_own_have_parts_too(small, monkeypatch):
    asked = []
    monkeypatch.setitem(LOADERS, "small", lambda root: small)
    monkeypatch.setitem(LOADERS, "small-2", lambda root, count=None: asked.append(count) or small)
    assert torch.equal(load("small-10").train.x, small.train.x[:10])
    assert load("small-2") is not None
    assert asked == [None]
    assert len(load("small-2-7").train) == 7 and asked == [None, 7]


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifra10-500", "'cifra10' is not known; did you mean 'cifar10'"),
        ("digits-0", "'digits-0' is not known; did you mean 'digits'"),
        (7, "7 is not known"),
        (["digits"], r"\['digits'\] is not known"),
    ],
)
def test_names_that_are_not_known(name, message, small_profile):
    with pytest.raises(ValueError, match="dataset: " + message):
        load(name)
    with pytest.raises(ValueError, match="settings.small.dataset: " + message):
        load_profile(small_profile({'"digits"': repr(name)}))


def test_a_profile_trains_on_a_part(small_profile, tmp_path):
    profile = load_profile(small_profile({'"digits"': '"digits-60"'}))
    study = make_study(profile.settings["small"], tmp_path / "store")
    member, = study.members("source", 1)
    assert member.config["dataset"] == "digits-60"
    assert len(study.models.data.train) == 60
    assert study.state(member)


def test_a_run_without_its_data_ends_before_it_begins(small_profile, tmp_path, capsys):
    path = small_profile({'"digits"': '"cifar10-500"'})
    out = tmp_path / "report"
    store = tmp_path / "store"
    words = [
        "reproduce", "--profile", path, "--out", str(out), "--store", str(store), "--data",
        str(tmp_path),
    ]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "starlight: dataset: the files of 'cifar10' are not in" in said
    assert "cifar-10-batches-py/data_batch_1" in said
    assert [str(left) for left in tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "model, message",
    [
        ("{ width = 4, vocabulary = 20 }", "embedding_bag: Expected idx"),
        ("{ width = 4, vocabulary = 1000 }", None),
    ],
)
def test_a_vocabulary_that_is_too_small_is_told_before_anything_runs(
    model, message, small_profile, tmp_path, monkeypatch, capsys
):
    make_news(tmp_path / "ag_news_csv")
    changes = {'"digits"': '"agnews-60"', '"mlp"': '"text_bag"', "{ depth = 1, width = 4 }": model}
    path, out = small_profile(changes), tmp_path / "report"
    ran = []
    monkeypatch.setattr(runner, "_run_all", lambda *arguments: ran.append(arguments))
    words = [
        "reproduce", "--profile", path, "--out", str(out), "--store", str(tmp_path / "store"),
        "--data", str(tmp_path),
    ]
    assert cli.main(words) == (2 if message else 0)
    assert len(ran) == (0 if message else 1)
    said = capsys.readouterr().err
    if not message:
        assert "settings.small.model" not in said
    else:
        assert (
            "settings.small.model: text_bag {'width': 4, 'vocabulary': 20} does not take the "
            "train examples of 'agnews-60': the inputs are torch.int32 of shape (2, 14)"
            in said
        )
        assert message in said


SIZES = {
    "mnist": (54_000, 6_000, 10_000),
    "fashion-mnist": (54_000, 6_000, 10_000),
    "cifar10": (45_000, 5_000, 10_000),
    "cifar100": (45_000, 5_000, 10_000),
    "agnews": (114_000, 6_000, 7_600),
    "agnews-small": (9_500, 500, 7_600),
    "imagenette64": (1_200, 300),
}


@pytest.fixture
def real(request):
    "The folder of real files, for the data set of the test."
    root, name = os.environ.get("STARLIGHT_DATA"), request.getfixturevalue("name")
    if not root or name not in available_datasets(root):
        pytest.skip(f"the files of {name} are not in STARLIGHT_DATA")
    return Path(root)


@pytest.mark.parametrize("name", SIZES)
def test_the_real_files(name, real):
    if name == "imagenette64" and (real / "imagenette2-160").is_dir():
        pytest.skip("the whole of Imagenette, whose sizes are others")
    data = load(name, real)
    assert tuple(map(len, data.splits.values())) == SIZES[name]
    assert data.num_classes == {"cifar100": 100, "agnews": 4, "agnews-small": 4}.get(name, 10)
    if name.startswith("agnews"):
        assert data.train.x.max() < 95_811
        assert data.test.x.max() < 95_811
        assert (data.train.x > 0).any(1).all()
        # the published vocabulary, with 0
        assert (name == "agnews-small" or max(data.train.x.max(), data.val.x.max()) == 95_810)
    else:
        # CIFAR and Imagenette have ImageNet's mean and deviation
        low, high = ((0.25, 1.35) if name != "mnist" else (0.01, 1.01))
        assert abs(data.train.x.mean()) < low and 0.95 < data.train.x.std() < high


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_the_real_files_in_the_papers_order(name, real):
    data, ((x, y), _) = load(name, real), read_images(name, real)
    rows, count = shuffled_rows(len(y)), len(data.train)
    assert torch.equal(torch.cat([data.train.y, data.val.y]), y[rows])
    mean, std = (torch.tensor(values)[:, None, None] for values in PIXELS[name])
    for split, part in ((data.train, rows[:count]), (data.val, rows[count:])):
        torch.testing.assert_close(split.x[:100], (x[part[:100]] / 255 - mean) / std)


@pytest.mark.parametrize("loader, words", [
    (torch.utils.data.TensorDataset(torch.zeros(4, 2), torch.zeros(4).long()),
     r"a data set of single examples is given; DataLoader\(dataset, batch_size=100\) makes"),
    (3, "batches .x, y. are needed, as a DataLoader gives, not int")])
def test_what_is_no_loader_is_told(loader, words):
    with pytest.raises(ValueError, match=f"loader: {words}"): Split.from_loader(loader)
