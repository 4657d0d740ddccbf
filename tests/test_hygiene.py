"""The tree: notebooks and package in step, one direction of imports, code that can be read in a narrow window."""
import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Rooms import only from rooms to their left. The last one is the package as a program.
ROOMS = ["runtime", "data", "models", "states", "training", "evaluation", "permutation", "matching", "barriers", "checks",
         "star", "statistics", "bma", "fusion", "plots", "paper", "__main__"]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LIBRARY = [p for p in NOTEBOOKS if p.parent.name == "nbs" and p.name != "index.ipynb"]
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MAX_LINE_LENGTH, MAX_CELL_LINES, MAX_MODULE_LINES = 100, 25, 400


def stem(path):
    return path.stem


def module_name(path):
    "`matching.weights` for 11d_matching.weights.ipynb, `matching` for 11_matching.ipynb."
    return path.stem.partition("_")[2]


def module_file(name):
    "The exported file of a module or, for a package's face, its `__init__.py`."
    path = ROOT / "starlight_nb" / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def is_face(name):
    return (ROOT / "starlight_nb" / name.replace(".", "/")).is_dir()


def cells(path, kind=None):
    found = json.loads(path.read_text())["cells"]
    return [dict(c, source="".join(c["source"])) for c in found if kind in (None, c["cell_type"])]


def is_export(cell):
    return cell["cell_type"] == "code" and cell["source"].startswith("#| export")


def docstring_lines(source):
    "The numbers of the lines, from 1, that hold docstrings and nothing else; none where a cell does not parse alone."
    try: tree = ast.parse(source)
    except SyntaxError: return set()
    lines, found = source.splitlines(), set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or ast.get_docstring(node) is None: continue
        docstring = node.body[0]
        alone = not lines[docstring.lineno - 1][:docstring.col_offset].strip()  # not behind `def f():`
        if alone: found |= {*range(docstring.lineno, docstring.end_lineno + 1)}
    return found


def code_lines(source):
    "The lines that are code: not empty, no directive, and no docstring."
    without = docstring_lines(source)
    return [line for number, line in enumerate(source.splitlines(), 1)
            if line.strip() and not line.startswith("#|") and number not in without]


def exports(path):
    return [cell["source"] for cell in cells(path) if is_export(cell)]


def tree_of(name):
    return ast.parse(module_file(name).read_text())


def nodes(name, kind):
    return [node for node in ast.walk(tree_of(name)) if isinstance(node, kind)]


def imported_modules(name):
    "The modules of this package that a module imports from, wherever in the file it does."
    package = ["starlight_nb", *name.split(".")]
    if not is_face(name):
        package = package[:-1]
    for node in nodes(name, ast.ImportFrom):
        if node.level:
            base = package[:len(package) - node.level + 1]
            yield ".".join([*base, *filter(None, [node.module])]).removeprefix("starlight_nb").lstrip(".")
        elif (node.module or "").startswith("starlight_nb."):
            yield node.module.removeprefix("starlight_nb.")


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the notebooks, cleaned and exported into an empty package."
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (folder / "starlight_nb").mkdir()
    for file in ("settings.ini", "pyproject.toml", "starlight_nb/__init__.py"):
        shutil.copy(ROOT / file, folder / file)
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run([str(Path(sys.executable).with_name(command))], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_package_is_what_the_notebooks_export(exported):
    ours, theirs = ({str(p.relative_to(root)): p.read_text() for p in (root / "starlight_nb").rglob("*.py")}
                    for root in (ROOT, exported))
    assert ours.keys() == theirs.keys()
    for file in ours:
        assert ours[file] == theirs[file], f"{file} differs from its notebook; make export"


def test_notebooks_are_clean(exported):
    for path in NOTEBOOKS:
        cleaned = (exported / path.relative_to(ROOT)).read_text()
        assert path.read_text() == cleaned, f"{path.name} is not clean; make export"


def test_the_readme_is_what_the_index_says():
    from nbconvert import MarkdownExporter
    body, _ = MarkdownExporter().from_filename(str(ROOT / "nbs/index.ipynb"))
    assert (ROOT / "README.md").read_text().strip() == body.replace("../", "").strip(), "README.md is stale; make export"


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_imports_run_in_one_direction(path):
    name = module_name(path)
    parts = [module_name(p) for p in LIBRARY]
    room = name.split(".")[0]
    for other in filter(None, imported_modules(name)):  # the top itself holds names only
        other_room = other.split(".")[0]
        if other_room != room:
            assert ROOMS.index(other_room) < ROOMS.index(room), f"{name} imports {other}"
        elif not is_face(name):
            assert parts.index(other) < parts.index(name), f"{name} imports {other}, a later part or the face"


def test_every_notebook_is_a_module_of_a_room():
    names = [module_name(p) for p in LIBRARY]
    assert {name.split(".")[0] for name in names} == set(ROOMS)
    files = set((ROOT / "starlight_nb").rglob("[a-z]*.py"))
    files |= {*(ROOT / "starlight_nb").rglob("*/__init__.py"), *(ROOT / "starlight_nb").glob("__main__.py")}
    assert files == {module_file(name) for name in names}


def test_every_package_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {f"starlight_nb.{p.parent.name}" for p in (ROOT / "starlight_nb").glob("*/__init__.py")}
    assert folders <= set(packages)


def test_docstrings_are_no_code_lines():
    cell = '#| export\ndef f(x):\n    """One.\n\n    Args:\n        x: a number.\n    """\n    return x\ndef g(): "Two."\n'
    assert code_lines(cell) == ["def f(x):", "    return x", 'def g(): "Two."']
    assert len(code_lines('def f(x):\n    "One."\n    return (\n')) == 3  # does not parse alone: all lines count


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_exported_code_fits_a_narrow_window(path):
    total = 0
    for source in exports(path):
        lines = code_lines(source)
        total += len(lines)
        assert len(lines) <= MAX_CELL_LINES, f"{len(lines)} lines: {source[:80]}"
        for line in source.splitlines():
            assert len(line) <= MAX_LINE_LENGTH, line
    assert total <= MAX_MODULE_LINES


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_exported_code_says_one_thing_a_line(path):
    name = module_name(path)
    for node in nodes(name, ast.IfExp):
        chained = any(isinstance(branch, ast.IfExp) for branch in (node.body, node.orelse))
        assert not chained, f"line {node.lineno}: a conditional expression inside another"
    for node in nodes(name, ast.Assign):
        assert not isinstance(node.value, ast.Lambda), f"line {node.lineno}: a lambda with a name"
        for target in node.targets:
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            assert not (several and len(target.elts) > 2), f"line {node.lineno}: three assignments in one"


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_no_method_is_attached_from_outside(path):
    name = module_name(path)
    classes = {node.name for node in nodes(name, ast.ClassDef)}
    for node in nodes(name, ast.Attribute):
        stored = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
        assert not (stored and node.value.id in classes), f"line {node.lineno}: {ast.unparse(node)} is assigned"


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_every_exported_cell_is_introduced(path):
    title, opening = cells(path, "markdown")[:2]
    lines = title["source"].splitlines()
    assert lines[0].startswith("# ") and any(line.startswith("> ") for line in lines), "a title and a subtitle"
    assert len(opening["source"].split()) >= 15, "the notebook says what it is for"
    before = None
    for cell in cells(path):
        introduced = before is None or not is_export(before) or before["id"] == "imports"
        assert not is_export(cell) or introduced, f"neither prose nor a check before {cell['source'][:80]}"
        before = cell


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_checks_fit_a_narrow_window_too(path):
    for cell in cells(path, "code"):
        if not is_export(cell):
            for line in cell["source"].splitlines():
                assert len(line) <= MAX_LINE_LENGTH, line


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_public_names_say_what_they_do(path):
    documented = (ast.FunctionDef, ast.ClassDef)
    for node in tree_of(module_name(path)).body:
        if isinstance(node, documented) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    assert ast.get_docstring(method), f"{node.name}.{method.name} has no docstring"


def test_only_the_settings_read_our_environment_variables():
    for path in LIBRARY:
        if module_name(path) != "runtime.settings":
            for source in exports(path):
                assert not re.search(r"os\.environ[^\n]*STARLIGHT_", source), f"{path.name}: {source[:80]}"


def test_ruff_finds_nothing():
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", EXPERIMENTS, ids=stem)
def test_experiments_define_nothing(path):
    for cell in cells(path, "code"):
        tree = ast.parse(cell["source"])
        defined = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Lambda))]
        assert not defined, cell["source"][:80]
    tagged = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse(tagged[0]["source"]).body:
        assert isinstance(node, ast.AnnAssign)
        assert node.value.value == ("smoke" if node.target.id == "profile" else None)
        assert "#" in tagged[0]["source"].splitlines()[node.lineno - 1], f"{node.target.id} has no comment"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=stem)
def test_experiments_read_like_the_paper(path):
    "A question, a plan that is run, how to read the figure, where we differ, two things to try."
    assert re.search(r"^> .+\?$", cells(path)[0]["source"], re.M), "a question below the heading"
    by_id = {cell["id"]: cell["source"] for cell in cells(path)}
    for cell_id, text in (("plan", "plan_of(experiment)"), ("data", "experiment.run(plan)"),
                          ("how-to-read", "## How to read it"), ("where-we-differ", "## Where we"),
                          ("provenance", "save_summary")):
        assert text in by_id[cell_id], cell_id
    assert re.search(r"`starlight reproduce (--profile [a-z-]+ )?--only", by_id["try"])
    for cell in cells(path, "code"):
        lines = cell["source"].splitlines()
        assert len(lines) <= 10, f"{len(lines)} lines: {lines[0]}"
        assert all(len(line) <= MAX_LINE_LENGTH for line in lines)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=stem)
def test_experiments_show_what_the_reports_on_digits_show(path):
    "`make notebooks` copies the outputs."
    report = "digits-beyond" if path.stem.startswith("beyond") else "digits"
    executed = {cell["id"]: cell for cell in cells(ROOT / "reports" / report / "notebooks" / path.name)}
    for cell in cells(path, "code"):
        ours, theirs = ([{k: v for k, v in output.items() if k not in ("execution_count", "metadata")}
                         for output in one["outputs"]] for one in (cell, executed[cell["id"]]))
        assert ours == theirs, f"cell {cell['id']}: make notebooks"
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_notebooks_carry_nothing_that_does_not_belong(path):
    text, ids = path.read_text(), [c["id"] for c in json.loads(path.read_text())["cells"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[a-z0-9-]+", i) for i in ids)
    unwanted = r"<<<<<<<|>>>>>>>|!pip|CUDA_VISIBLE_DEVICES|/home/|/root/|/site-packages/|/tmp/ipykernel"
    assert not re.search(unwanted, text)
    assert len(text) < 400_000


@pytest.mark.parametrize("path", EXPERIMENTS, ids=stem)
def test_an_experiment_shows_its_figures(path):
    for cell in json.loads(path.read_text())["cells"]:
        if "save_figure(" not in "".join(cell["source"]): continue
        assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), cell["id"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_a_notebook_is_valid(path):
    "As nbconvert and GitHub ask for it."
    nbformat.validate(json.loads(path.read_text()))


@pytest.mark.parametrize("path", LIBRARY, ids=stem)
def test_stored_outputs_show_no_progress_and_no_warnings(path):
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            assert "Warning" not in "".join(output.get("text", [])), "".join(output["text"])[:200]
            assert not re.search(r"\d+%\|", json.dumps(output)), "a progress bar"


def anchors(path):
    "What a link into a page may end in: its headings as GitHub writes them, and anchors of its own."
    text = path.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=stem)
def test_relative_links_lead_somewhere(path):
    notebook = path.suffix == ".ipynb"
    texts = [c["source"] for c in cells(path, "markdown")] if notebook else [path.read_text()]
    links = re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)#?([^)\s]*)", "\n".join(texts))
    for target, anchor in links:
        assert (path.parent / target).exists(), target
        if anchor and target.endswith(".md"):
            assert anchor in anchors(path.parent / target), f"{target}#{anchor}"


def test_prefixes_of_notebooks_are_unique():
    prefixes = [path.stem.partition("_")[0] for path in LIBRARY]
    assert len(set(prefixes)) == len(prefixes)


def test_settings_and_pyproject_agree():
    project, ini = tomllib.loads((ROOT / "pyproject.toml").read_text()), settings()
    assert project["project"]["name"] == ini["lib_name"] == ini["repo"] == "starlight_nb"
    assert project["project"]["description"] == ini["description"]
    assert project["project"]["requires-python"] == f">={ini['min_python']}"
    nbdev = project["tool"]["nbdev"]
    assert nbdev["tst_flags"] == ini["tst_flags"]
    assert nbdev["allowed_cell_metadata_keys"] == ini["allowed_cell_metadata_keys"].split()
    assert nbdev["allowed_metadata_keys"] == ini["allowed_metadata_keys"].split()
    assert f"version: {ini['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'__version__ = "{ini["version"]}"' in (ROOT / "starlight_nb/__init__.py").read_text()


def test_ci_covers_the_oldest_supported_versions(tmp_path):
    "The matrix begins at the Python of pyproject.toml; the step that holds PyTorch back finds its version there."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    assert project["requires-python"] == f">={job['strategy']['matrix']['python'][0]}"
    oldest = next(step for step in job["steps"] if "oldest" in step.get("if", ""))
    variables = {"RUNNER_TEMP": str(tmp_path), "GITHUB_ENV": str(tmp_path / "variables")}
    subprocess.run(["bash", "-ec", oldest["run"]], cwd=ROOT, env=os.environ | variables, check=True)
    version, = (need.partition(">=")[2] for need in project["dependencies"] if need.startswith("torch>"))
    assert (tmp_path / "constraints.txt").read_text() == f"torch=={version}.*\n"
    assert any(step.get("run", "").startswith("make test") for step in job["steps"])
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\w. ]+) \|$", (ROOT / "docs/other_machines.md").read_text(), re.M)
    pythons = job["strategy"]["matrix"]["python"]
    assert rows == [("Python", pythons[0], pythons[-1]), ("PyTorch", version, "the newest")]


def test_nbdev_stays_out_of_what_users_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [d for d in project["dependencies"] if re.match("nbdev|fastcore|execnb|jupyterlab|pytest|ruff", d)]
    for file in (ROOT / "starlight_nb").rglob("*.py"):
        if file.name != "_modidx.py":
            assert not re.search(r"^\s*(from|import) (nbdev|fastcore|execnb)", file.read_text(), re.M)


@pytest.mark.parametrize("path", sorted({*(ROOT / "reports").glob("*/")} - {ROOT / "reports/bench"}), ids=stem)
def test_committed_reports_are_small_and_whole(path):
    if subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT).returncode == 0:
        pytest.skip("not a committed report")
    files = [p for p in path.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10_000_000
    profile = tomllib.loads((ROOT / f"nbs/experiments/profiles/{path.name}.toml").read_text())
    for experiment in profile["experiments"]:
        for file in (f"data/{experiment}.csv", f"tables/{experiment}.md", f"notebooks/{experiment}.ipynb"):
            assert (path / file).exists(), f"{path.name}/{file} is missing"
