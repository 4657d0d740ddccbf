"""The tree: notebooks and package in step, one direction of imports, settings that agree, notebooks that are clean."""
import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["base", "compute", "corpora", "data", "models", "files", "checkpoints", "jobs", "recipes", "vectors", "training", "store", "evaluation", "units", "rules", "permutation", "descent", "small_descent",
         "weights", "activations", "relaxations", "matching", "barriers", "star", "bma", "fusion", "study", "average_study", "fusion_study", "variation_study", "matching_study", "planning", "plots", "trend_plots", "matching_plots", "published", "housekeeping", "gallery", "reproduce"]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LIBRARY = [p for p in NOTEBOOKS if p.parent.name == "nbs" and p.name != "index.ipynb"]
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]
name = lambda path: path.stem


def cells(path, kind="code"):
    return [dict(cell, source="".join(cell["source"])) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the notebooks, cleaned and exported into an empty package."
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for file in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / file, folder / file)
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run([str(Path(sys.executable).with_name(command))], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_package_is_what_the_notebooks_export(exported):
    ours, theirs = ({p.name: p.read_text() for p in (root / "starlight_nb").glob("*.py")} for root in (ROOT, exported))
    assert ours.keys() == theirs.keys()
    for file in ours:
        assert ours[file] == theirs[file], f"{file} differs from its notebook; make export"


def test_notebooks_are_clean(exported):
    for path in NOTEBOOKS:
        assert path.read_text() == (exported / path.relative_to(ROOT)).read_text(), f"{path.name} is not clean; make export"


def test_the_readme_is_what_the_index_says():
    from nbconvert import MarkdownExporter
    body, _ = MarkdownExporter().from_filename(str(ROOT / "nbs/index.ipynb"))
    assert (ROOT / "README.md").read_text().strip() == body.replace("../", "").strip(), "README.md is stale; make export"


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_imports_run_in_one_direction(path):
    module = path.stem.partition("_")[2]
    for node in ast.walk(ast.parse((ROOT / f"starlight_nb/{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and (node.level or node.module.startswith("starlight_nb.")):
            other = node.module.removeprefix("starlight_nb.")
            assert ORDER.index(other) < ORDER.index(module), f"{module} imports {other}"


def test_every_notebook_has_its_place():
    assert [p.stem.partition("_")[2] for p in LIBRARY] == ORDER
    assert sorted(p.stem for p in (ROOT / "starlight_nb").glob("[a-z]*.py")) == sorted(ORDER)


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_library_notebooks_read_well(path):
    first = cells(path, "markdown")[0]["source"].splitlines()
    assert first[0].startswith("# ") and any(line.startswith("> ") for line in first), "a heading and a line that says what it is"
    exports = [c["source"] for c in cells(path) if c["source"].startswith("#| export")]
    for source in exports:
        lines = [l for l in source.splitlines() if l.strip() and not l.strip().startswith("#")]
        assert len(lines) <= 30, source[:80]
    checks = [c for c in cells(path) if "assert " in c["source"] or "pytest.raises" in c["source"]]
    assert len(checks) >= 1 or path.stem == "30_plots"
    words = sum(len(c["source"].split()) for c in cells(path, "markdown"))
    code = sum(len([l for l in source.splitlines() if l.strip()]) for source in exports)
    assert words >= code, f"{words} words of prose for {code} lines"


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_public_functions_say_what_they_do(path):
    tree = ast.parse((ROOT / f"starlight_nb/{path.stem.partition('_')[2]}.py").read_text())
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_experiments_define_nothing(path):
    for cell in cells(path):
        tree = ast.parse(cell["source"])
        assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Lambda))], cell["source"][:80]
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse(tagged[0]["source"]).body:
        assert isinstance(node, ast.AnnAssign) and node.value.value == ("smoke" if node.target.id == "profile" else None)
        assert "#" in tagged[0]["source"].splitlines()[node.lineno - 1], f"{node.target.id} has no comment"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_carry_nothing_that_does_not_belong(path):
    text, ids = path.read_text(), [c["id"] for c in json.loads(path.read_text())["cells"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[a-z0-9-]+", i) for i in ids)
    assert not re.search(r"<<<<<<<|>>>>>>>|!pip|CUDA_VISIBLE_DEVICES|/home/|/root/|/site-packages/|/tmp/ipykernel", text)
    assert len(text) < 400_000


def test_settings_and_pyproject_agree():
    project, ini = tomllib.loads((ROOT / "pyproject.toml").read_text()), settings()
    assert project["project"]["name"] == ini["lib_name"] == ini["repo"] == "starlight_nb"
    assert project["project"]["description"] == ini["description"]
    assert project["project"]["requires-python"] == f">={ini['min_python']}"
    nbdev = project["tool"]["nbdev"]
    assert nbdev["tst_flags"] == ini["tst_flags"] and nbdev["allowed_cell_metadata_keys"] == ini["allowed_cell_metadata_keys"].split()
    assert nbdev["allowed_metadata_keys"] == ini["allowed_metadata_keys"].split()
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {ini['version']}\n" in citation and f'__version__ = "{ini["version"]}"' in (ROOT / "starlight_nb/__init__.py").read_text()


def test_nbdev_stays_out_of_what_users_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [d for d in project["dependencies"] if re.match("nbdev|fastcore|execnb|jupyterlab|pytest", d)]
    for file in (ROOT / "starlight_nb").glob("*.py"):
        if file.name != "_modidx.py":
            assert not re.search(r"^\s*(from|import) (nbdev|fastcore|execnb)", file.read_text(), re.M)


@pytest.mark.parametrize("path", sorted({*(ROOT / "reports").glob("*/")} - {ROOT / "reports/bench"}), ids=name)  # bench is no profile
def test_committed_reports_are_small_and_whole(path):
    if subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT).returncode == 0:
        pytest.skip("not a committed report")
    files = [p for p in path.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10_000_000
    for experiment in tomllib.loads((ROOT / f"nbs/experiments/profiles/{path.name}.toml").read_text())["experiments"]:
        for file in (f"data/{experiment}.csv", f"tables/{experiment}.md", f"notebooks/{experiment}.ipynb"):
            assert (path / file).exists(), f"{path.name}/{file} is missing"
