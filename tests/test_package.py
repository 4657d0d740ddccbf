"""The wheel: complete without a clone, and light enough to import without the tools that made
it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The wheel, built from a copy of the tracked tree and unpacked into a folder of its own."
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(
        f"mkdir {source} && "
        f"cp -r nbs starlight_nb pyproject.toml settings.ini README.md LICENSE {source}",
        shell=True,
        cwd=ROOT,
        check=True,
    )
    result = subprocess.run(
        [
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder),
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    wheel, = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed, folder, code):
    "Run Python outside of the checkout with the unpacked wheel in front."
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )


def test_the_wheel_carries_notebooks_profiles_and_published_numbers(installed):
    package = installed / "starlight_nb"
    for path in (ROOT / "nbs/experiments").glob("*.ipynb"):
        assert (package / "experiments" / path.name).read_bytes() == path.read_bytes()
    for path in (ROOT / "nbs/experiments/profiles").glob("*.toml"):
        assert (package / "experiments/profiles" / path.name).exists()
    assert (package / "experiments/published.csv").exists()
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text()
    assert "Requires-Dist: torch>=" in metadata and "Provides-Extra: lab" in metadata
    assert (
        "starlight = starlight_nb.paper.cli:main"
        in next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    )


def test_importing_everything_needs_none_of_the_tools(installed, tmp_path):
    package = installed / "starlight_nb"
    files = [p.relative_to(package).with_suffix("") for p in package.rglob("[a-z]*.py")]
    modules = sorted(".".join(file.parts) for file in files)
    assert {"star.sampling", "matching.weights", "paper.cli"} <= {*modules}
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module("starlight_nb." + name)
import starlight_nb
print(starlight_nb.__file__)
assert not {{'nbdev', 'fastcore', 'execnb', 'jupyterlab', 'pytest'}} & set(sys.modules)
"""
    result = run(installed, tmp_path, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().startswith(str(installed))


def test_the_core_needs_no_plotting_and_no_notebooks(installed, tmp_path):
    code = """
import sys, starlight_nb.star
heavy = {'matplotlib', 'seaborn', 'papermill', 'torchvision', 'sklearn', 'joblib'}
assert not heavy & set(sys.modules)
"""
    result = run(installed, tmp_path, code)
    assert result.returncode == 0, result.stderr


def test_a_report_without_a_clone(installed, tmp_path):
    small = {"settings": '["mlp"]', "source_counts": "[1,2]", "stars": 1, "heldouts": 2, "points": 3}
    words = ["reproduce", "--profile", "smoke", "--only", "fig1", "--out", "here"]
    words += [f"--parameter={name}={value}" for name, value in small.items()]
    code = f"from starlight_nb.paper.cli import main; raise SystemExit(main({words}))"
    result = run(installed, tmp_path, code)
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((tmp_path / "here/data/fig1_source_count.json").read_text())["settings"]
    assert (tmp_path / "here/figures/fig1_source_count.png").exists()
    assert (tmp_path / ".starlight/store").is_dir()
