"""The README: short, in step with the report on digits, and its lines for two models of one's own
run."""

import csv
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from starlight_nb.data import load
from starlight_nb.training import Recipe, train_population

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
VERDICTS = ("holds", "fails", "not shown")


def rows_below(text, heading):
    "The rows of the first table below a heading, as lists of cells, without the table's own head."
    section = re.split(rf"^#+ {heading}$", text, flags=re.M)[1]
    rows = re.findall(r"^\|(.+)\|$", section.split("\n## ")[0], re.M)[2:]
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def verdicts_of_both_runs():
    "The verdicts by the place in the paper, from the table of two runs on digits."
    found = {}
    for line in (ROOT / "reports/verdicts.md").read_text().splitlines():
        if not line.startswith("|") or line.startswith("|:"): continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0] != "claim": found.setdefault(cells[1], set()).add(cells[-1])
    return found


def test_the_readme_is_short():
    assert len(README.split()) <= 900


@pytest.mark.parametrize("page, heading", [
    ("README.md", "Figures and tables"), ("docs/reproduce.md", "One experiment"),
])
def test_every_experiment_has_a_row(page, heading):
    rows = rows_below((ROOT / page).read_text(), heading)
    linked = re.findall(r"nbs/experiments/(\w+)\.ipynb\)", str(rows))
    assert sorted(linked) == sorted(p.stem for p in (ROOT / "nbs/experiments").glob("*.ipynb"))


def test_verdicts_are_those_of_both_runs():
    "A row names the places of its claims in the paper, and says every verdict that they have there."
    rows, seen = rows_below(README, "Figures and tables"), set()
    by_place = verdicts_of_both_runs()
    assert len(by_place) > 5
    for what, _, _, verdict in rows:
        places = [place for place in by_place if re.search(rf"\b{re.escape(place)}\b", what)]
        expected = set().union(*(by_place[place] for place in places))
        assert {word for word in VERDICTS if word in verdict} == expected, what
        seen |= set(places)
    assert seen == by_place.keys()


def test_the_result_is_what_the_report_says():
    "The barriers of Fig. 1 with most sources, and in how many settings two claims hold."
    result = README.split("**On scikit-learn's digits**")[1].split("\n\n")[0]
    with open(ROOT / "reports/digits/tables/fig1_source_count.csv", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        kind, count, _, mean, _, low, high = row[1:]
        if kind == "regular-regular": assert f"{float(mean):.2f}" in result
        if kind == "star-heldout" and count.startswith("50"):
            assert f"{float(mean):.2f}" in result
            assert f"{float(low):.2f} to {float(high):.2f}" in result
    report = (ROOT / "reports/digits/README.md").read_text()
    for claim, words in {"solutions is below that between": "lower one in",
                         "solutions is near zero, as": "as the conjecture asks, in"}.items():
        line = next(line for line in report.splitlines() if claim in line)
        settings, holding = re.search(r"of (\d+): holds in (\d+)", line).groups()
        assert f"{words} {holding} of {settings}" in result


def test_the_gap_of_partial_matching_is_what_the_reports_say():
    "Every number of both tables, with its interval."
    page = (ROOT / "docs/differences.md").read_text()
    rows = {name: cells for name, *cells in rows_below(page, "Does the gap survive complete matching\\?")}
    columns = [("digits", "ResNet 16"), ("cifar10-small", "ResNet 8"), ("cifar10-small", "ResNet 4")]
    for column, (report, setting) in enumerate(columns):
        tables = ROOT / "reports" / report / "tables"
        barriers, gaps = (
            [row for row in csv.DictReader((tables / f"appendix_partial{end}.csv").open())
             if row["setting"] == setting]
            for end in ("", "_gap"))
        for row in barriers:
            if row["spec"] == "unmatched": continue
            for pair in ("regular-regular", "star-heldout"):
                name = f"{pair.replace('-', ' – ').replace('heldout', 'held-out')}, {row['spec']} matching"
                assert rows[name][column] == row[pair], name
        forward, random = gaps
        assert (forward["order"], random["order"]) == ("forward", "random-0")
        for name in ("gap under partial matching", "gap under complete matching"):
            assert rows[name][column] == forward[name]
        assert rows[f"{name}, random order"][column] == random[name]
        for order, row in (("forward order", forward), ("random order", random)):
            assert rows[order][column] == row["share that complete matching closes"]


def test_the_width_series_agrees_with_the_published_one_as_the_table_says():
    with open(ROOT / "reports/mnist/tables/table1_barriers_published.csv", newline="") as file:
        verdicts = [row["verdict"] for row in csv.DictReader(file) if "barrier" in row["quantity"]]
    met = [verdict for verdict in verdicts if verdict in ("within our interval", "intervals overlap")]
    assert len(met) == len(verdicts) == 7 * 3
    assert f"our intervals meet all {len(met)} published barriers ± standard deviation" in README


def test_minutes_of_profiles_are_those_that_the_profiles_state():
    for name, _, minutes in rows_below(README, "Other profiles"):
        if not minutes.isdigit(): continue
        profile = ROOT / f"nbs/experiments/profiles/{name.strip('`')}.toml"
        assert tomllib.loads(profile.read_text())["minutes"] == int(minutes)


def own_network():
    "A small convolutional network with batch normalisation."
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 64, 10),
    )


PROJECT = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from starlight_nb.data import load
from test_readme import own_network as make_model

digits = load("digits")
train_loader, test_loader = (DataLoader(TensorDataset(part.x, part.y), 100)
                             for part in (digits.train, digits.test))
"""


def test_two_models_of_ones_own(tmp_path, monkeypatch):
    "The block of Python in the README, with a project and two files of `torch.save` as it asks for."
    recipe = Recipe(epochs=4, batch_size=100, lr=0.05, schedule="one-cycle")
    states = train_population(own_network, load("digits"), recipe, seeds=range(2))
    for name, state in zip("ab", states): torch.save(state, tmp_path / f"{name}.pt")
    (tmp_path / "my_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    block, = re.findall(r"```python\n(.+?)```", README, re.S)
    assert len(block.strip().splitlines()) == 6
    names = {}
    exec(block, names)
    assert 0 <= names["after"] < names["before"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_page_can_be_reached_from_the_readme(page):
    assert f"(docs/{page.name}" in README


def test_the_readme_computes_nothing():
    "What it shows is in step with the reports by the tests above; executed examples are how-tos."
    index = json.loads((ROOT / "nbs/index.ipynb").read_text())
    assert {cell["cell_type"] for cell in index["cells"]} == {"markdown"}
