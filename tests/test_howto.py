"""How-tos: each notebook in nbs/howto runs, is short, and shows its figures."""
import json
from pathlib import Path

import nbformat
import pytest

from starlight_nb.paper.execution import _execute_notebook

ROOT = Path(__file__).parents[1]
HOWTOS = sorted((ROOT / "nbs/howto").glob("*.ipynb"))
every_howto = pytest.mark.parametrize("path", HOWTOS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def check_outputs(notebook):
    "Figures, and neither errors nor warnings."
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"
    for output in outputs:
        assert output["output_type"] != "error", output.get("ename")
        assert output.get("name") != "stderr", "".join(output["text"])[:500]


@every_howto
def test_a_howto_runs(path, tmp_path, monkeypatch):
    "In a kernel, which like that of an experiment is forked from a process that has PyTorch loaded."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STARLIGHT_PROGRESS", str(tmp_path / "progress"))  # no bars among the outputs
    check_outputs(_execute_notebook(nbformat.read(path, as_version=4)))


@every_howto
def test_a_howto_shows_what_comes_out(path):
    check_outputs(json.loads(path.read_text()))
    assert path.stat().st_size < 300_000


@every_howto
def test_a_howto_is_easy_to_read(path):
    "It is a valid notebook of short cells that exports nothing, says what it is for, and ends with things to try."
    notebook = json.loads(path.read_text())
    nbformat.validate(notebook)
    title, opening = notebook["cells"][:2]
    lines = "".join(title["source"]).splitlines()
    assert lines[0].startswith("# ") and any(line.startswith("> ") for line in lines)
    assert opening["cell_type"] == "markdown" and len("".join(opening["source"]).split()) >= 15
    assert any("to try" in "".join(cell["source"]) for cell in notebook["cells"])
    for cell in code_cells(notebook):
        lines = "".join(cell["source"]).splitlines()
        assert len(lines) <= 20 or lines[0].startswith("%%writefile"), cell["id"]
        assert not any(line.startswith("#|") or len(line) > 100 for line in lines), cell["id"]
