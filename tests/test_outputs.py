"""The outputs that library notebooks store are those that they have today."""
import re
from pathlib import Path

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

from starlight_nb.paper.kernels import ThisPython

ROOT = Path(__file__).parents[1]
# A sample from several rooms; quick notebooks that print no times and no folders.
SAMPLE = ["10a_permutation.spec", "10b_permutation.units", "14_statistics", "50a_paper.catalogue",
          "50c_paper.members", "50k_paper.published"]


def texts(cell):
    "The text that the outputs of a cell show, with addresses of objects left out."
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown = data.get("text/markdown") or data.get("text/plain") or output.get("text", "")
        found.append(re.sub(r"0x[0-9a-f]+", "0x", shown))
    return found


@pytest.mark.parametrize("name", SAMPLE)
def test_stored_outputs_are_fresh(name):
    stored = nbformat.read(ROOT / f"nbs/{name}.ipynb", as_version=4)
    executed = nbformat.from_dict(stored)
    executed.cells = [nbformat.from_dict(dict(cell)) for cell in stored.cells]
    resources = {"metadata": {"path": str(ROOT / "nbs")}}
    ExecutePreprocessor(
        timeout=300, kernel_name="python3", kernel_manager_class=ThisPython,
        shutdown_kernel="immediate").preprocess(executed, resources)
    shown = 0
    for before, after in zip(stored.cells, executed.cells, strict=True):
        assert texts(before) == texts(after), f"cell {before.id}: make outputs"
        shown += len(texts(after))
    assert shown, "a notebook of the sample shows something"
