"""What several test files need: small data, small solutions, and one smoke report for the whole
session."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from starlight_nb.data import Dataset, Split, load
from starlight_nb.models import build
from starlight_nb.paper.parts import PairPart
from starlight_nb.paper.study import Study
from starlight_nb.runtime.settings import Settings
from starlight_nb.runtime.store import Store
from starlight_nb.training import Recipe, train_population

ROOT = Path(__file__).parents[1]

# Below `nohup`, or in the background of a shell, some signals are ignored; what is started inherits
# that. The tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="session")
def recipe():
    return Recipe(epochs=3, batch_size=100, lr=0.05, schedule="one-cycle")


@pytest.fixture(scope="session")
def small():
    "Three classes in five dimensions: forty examples for training and twenty for the test."
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(3, 5, generator=generator)
    labels = torch.arange(60) % 3
    x = centres[labels] + torch.randn(60, 5, generator=generator)
    return Dataset("small", Split(x[:40], labels[:40]), Split(x[40:], labels[40:]))


@pytest.fixture(scope="session")
def make_mlp():
    return partial(build, "mlp", depth=2, width=8)


@pytest.fixture(scope="session")
def solutions(digits, recipe, make_mlp):
    return train_population(make_mlp, digits, recipe, seeds=range(3))


def make_study(setting, store, points=11, **options):
    "A study with a store in this folder, or the given store."
    store = store if isinstance(store, Store) else Store(store)
    return Study(setting, store, Settings.from_environment(store=store.root, **options), points)


def measured_paths(study, pairs):
    "The tidy rows of whole paths, without those of single models."
    return PairPart(study, pairs, whole=True, single=False).rows()


PROFILE = """
title = "mine"
[settings.small]
dataset = "digits"
architecture = "mlp"
model = { depth = 1, width = 4 }
recipe = { epochs = 1, batch_size = 200, lr = 0.05 }
sources = 3
heldouts = 2
[experiments.fig3_paths]
settings = ["small"]
sources = 2
stars = 1
heldouts = 2
points = 3
"""


@pytest.fixture
def small_profile(tmp_path):
    "Write a profile of one small setting, with texts replaced by others, and return its path."
    def write(changes=()):
        text, path = PROFILE, tmp_path / "mine.toml"
        for old, new in dict(changes).items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        return str(path)
    return write


SHORT = """import json
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.origin import origin
from starlight_nb.runtime.settings import Settings
write_atomic(Settings.from_environment().report / "made_with/{name}.json", json.dumps(origin()))
print("fine")"""


@pytest.fixture
def short_notebooks(tmp_path, monkeypatch):
    """The runner's experiments, each with its parameters and one cell: one that computes nothing and
    says with what, or the one that is given. Their measurements count as made."""
    from starlight_nb.paper import catalogue, execution, runner
    monkeypatch.setattr(runner, "missing", lambda plans: {})
    monkeypatch.setattr(runner, "making_jobs", lambda plans, costs: {})
    # so that notebooks are executed by this process, where the folder is another one
    monkeypatch.setenv("STARLIGHT_JOBS", "1")
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "profiles").symlink_to(ROOT / "nbs/experiments/profiles")

    def write(**sources):
        for path in (ROOT / "nbs/experiments").glob("*.ipynb"):
            notebook = json.loads(path.read_text())
            cells = notebook["cells"]
            tags = [cell["metadata"].get("tags", []) for cell in cells]
            position = next(i for i, own in enumerate(tags) if "parameters" in own)
            source = sources.get(path.stem, SHORT.format(name=path.stem))
            last = dict(cells[position], id="next", metadata={}, source=source)
            notebook["cells"] = [*cells[:position + 1], last]
            (folder / path.name).write_text(json.dumps(notebook))
        for module in (catalogue, execution):
            monkeypatch.setattr(module, "experiments_folder", lambda: folder)
    return write


def starlight(*words, folder, store=None, **environment):
    "Start the command in a process of its own, with a report and a store below `folder`."
    command = [str(Path(sys.executable).with_name("starlight")), *words]
    if words[0] == "reproduce":
        command += ["--out", str(folder / "report"), "--store", str(store or folder / "store")]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )


def finish(process):
    "Wait for a command: exit status, stdout, stderr."
    out, error = process.communicate(timeout=1200)
    return process.returncode, out, error


def report_bytes(folder, report=None):
    "Every file of a report except the evidence, which is what may vary."
    report = Path(report or folder / "report")
    return {
        str(p.relative_to(report)): p.read_bytes()
        for p in sorted(report.rglob("*"))
        if p.is_file() and p.name != "evidence.json"
    }


def made_once(tmp_path_factory, name, make):
    "A folder that `make(folder)` makes once, also where several processes share the tests."
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            made = folder.with_name(f"{name}-in-the-making")
            make(made)
            made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def smoke_report(tmp_path_factory):
    """A folder with the smoke report and its store, made once from an empty store, also where several
    processes share the tests. STARLIGHT_SMOKE names such a folder where there is one."""
    def make(folder):
        if given := os.environ.get("STARLIGHT_SMOKE"):
            shutil.copytree(given, folder)
            return
        folder.mkdir()
        status, out, error = finish(starlight("reproduce", "--profile", "smoke", folder=folder))
        assert status == 0, out + error

    return made_once(tmp_path_factory, "smoke", make)


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium; apt-get install chromium")
FRAME = """<!doctype html><iframe src='{}' style='width: {}px; height: 900px; border: 0'></iframe>
<script>addEventListener('message', told => {{
  if (typeof told.data != 'string' || !told.data.startsWith('{{"images')) return;
  const said = document.createElement('pre');
  said.id = 'said'; said.textContent = told.data; document.body.append(said); }})</script>"""


def said_by_a_browser(page, script, width, scheme="light"):
    """What `script`, added to a page, posts to the page's frame: JSON that begins with `images`.

    The page is opened from its folder, in a frame of this width, which may be narrower than the
    browser's windows get."""
    copy = page.with_name(f".{page.stem}-{width}.html")  # hidden from other tests of the folder
    frame = copy.with_suffix(".frame.html")
    copy.write_text(page.read_text().replace("</body>", script))
    frame.write_text(FRAME.format(copy.name, width))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--allow-file-access-from-files",
        "--window-size=1400,900",
        f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [BROWSER, *options, f"--user-data-dir={profile}", frame.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    for path in (copy, frame):
        path.unlink()
    said = re.search(r'<pre id="said">(.*?)</pre>', result.stdout, re.S)
    assert said, result.stdout[-500:] + result.stderr[-500:]
    return json.loads(html.unescape(said[1]))


LONGEST = (
    "test_large", "test_reproduce", "test_planning", "test_evidence", "test_faults", "test_architectures", "test_howto",
    "test_your_models")


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no process is left with one of them at the end. Slow
    tests run when they are asked for, and may take an hour."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))
            if not os.environ.get("STARLIGHT_SLOW"):
                item.add_marker(pytest.mark.skip(reason="slow; STARLIGHT_SLOW=1 runs it"))


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem):
    "A worker that died ends the run at once; pytest-xdist alone would let the others finish their files first."
    pytest.exit(f"a worker died in {crashitem}", returncode=1)
