"""Plans, what a profile costs, and budgets: a plan is what a run leaves, and whatever the time
allows leaves a store and a report that are whole."""

import dataclasses
import datetime
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, finish, report_bytes, starlight

from starlight_nb.paper import cli, runner
from starlight_nb.paper.budget import NOTEBOOK_SECONDS, Planner
from starlight_nb.paper.catalogue import experiment_names
from starlight_nb.paper.costs import Cost, share_of_peak
from starlight_nb.paper.experiment import resolve_experiment
from starlight_nb.paper.housekeeping import keys_of_profile, stored, verify
from starlight_nb.paper.making import making_jobs
from starlight_nb.paper.parts import missing
from starlight_nb.paper.plans import PLANS, plan_of
from starlight_nb.paper.profiles import load_profile
from starlight_nb.runtime.settings import Settings
from starlight_nb.runtime.store import config_key, write_tensors
from starlight_nb.training import Recipe

PROFILES = ROOT / "nbs/experiments/profiles"
PROFILE = """[settings.small]
label = "Small"
dataset = "digits-300-100"
architecture = "mlp"
model = { depth = 2, width = 12 }
recipe = { epochs = 2, batch_size = 50, lr = 0.05 }
star = { epochs = EPOCHS }
sources = 6
heldouts = 2
[experiments.fig1_source_count]
settings = ["small"]
source_counts = [1, 3, 6]
stars = 1
heldouts = 2
points = 5
[experiments.fig3_paths]
settings = ["small"]
sources = 6
stars = 1
heldouts = 2
points = 5
"""


def experiment(name, profile="smoke", store="unused"):
    environment = Settings.from_environment(store=store, jobs=1)
    return resolve_experiment(name, load_profile(profile), environment)


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE.replace("EPOCHS", "4"))
    return path


def run(folder, profile, *words, jobs="1", **environment):
    words = ["--profile", str(profile), "--jobs", jobs, *words]
    return finish(starlight("reproduce", *words, folder=folder, **environment))


def test_every_experiment_has_a_plan_and_no_other_has():
    assert set(PLANS) == set(experiment_names())


def test_a_plan_is_what_a_run_leaves_entry_for_entry(smoke_report):
    planned = keys_of_profile("smoke", Settings.from_environment(store=smoke_report / "store"))
    # 5: another test's
    made = {
        entry.key for entry in stored(smoke_report / "store") if entry.config.get("points") != 5
    }
    assert made == planned


@pytest.mark.parametrize("name", experiment_names())
def test_each_plan_is_whole_after_a_run_and_lists_what_is_needed_first(name, smoke_report):
    plan = plan_of(experiment(name, store=smoke_report / "store"))
    assert not missing([plan]) and not making_jobs([plan])
    earlier = set()
    for key, (_, measurement) in plan.measurements().items():
        assert {need.key for need in measurement.needs} <= earlier
        earlier.add(key)
    assert set(plan.counts().index) <= {study.setting.label for study in
                                        experiment(name).studies}


def test_what_is_stored_costs_nothing(smoke_report, tmp_path):
    cost = SimpleNamespace(
        setting=SimpleNamespace(name="mlp"), regular=lambda epochs: 100.0,
        star=lambda sources: 100.0, path=lambda points, repair: 100.0)
    for store, expected in ((tmp_path, 1000), (smoke_report / "store", NOTEBOOK_SECONDS)):
        own = experiment("fig1_source_count", store=store)
        seconds = Planner({"fig1_source_count": own}, [cost]).seconds("fig1_source_count")
        assert seconds > expected if store == tmp_path else seconds == expected


def test_a_dry_run_says_what_it_costs_and_writes_nothing(profile, tmp_path):
    status, out, error = run(tmp_path, profile, "--dry-run")
    assert status == 0, error
    for word in (
        "training (images/s)", "Starlight (images/s)", "a pair (s)", "a matching (s)",
        "memory up to", "| fig3_paths", "| fig1_source_count", "minutes",
    ):
        assert word in out, word
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize("budget", ["25", "soon", "0min", "-5s"])
def test_a_budget_is_a_time(budget, profile, tmp_path, capsys):
    words = [
        "reproduce", "--profile", str(profile), f"--budget={budget}", "--out",
        str(tmp_path / "report"), "--store", str(tmp_path / "store"),
    ]
    assert cli.main(words) == 2
    said = f"budget: a time such as 90s, 25min or 1.5h is needed, not '{budget}'"
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_device_that_there_is_not(profile, tmp_path, capsys):
    words = [
        "reproduce", "--profile", str(profile), "--device", "cuda:77", "--out",
        str(tmp_path / "report"),
    ]
    assert cli.main(words) == 2
    assert "device: 'cuda:77' is asked for, and PyTorch sees" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run with two jobs and without a budget; its profile lies beside its report and its store."
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.toml").write_text(PROFILE.replace("EPOCHS", "4"))
    status, out, error = run(folder, folder / "mine.toml", jobs="2")
    assert status == 0, out + error
    return folder


def test_a_budget_that_is_enough_gives_the_report_of_a_run_without_one(whole, tmp_path):
    status, out, error = run(tmp_path, whole / "mine.toml", "--budget", "20min")
    assert status == 0, error
    assert "within the budget: fig3_paths; fig1_source_count" in out
    assert "left for the next call" not in out
    evidence = json.loads((tmp_path / "report/evidence.json").read_text())
    wanted = {"done": {"fig3_paths": {}, "fig1_source_count": {}}, "left": []}
    assert evidence["budget"].items() >= wanted.items()
    assert [row["setting"] for row in evidence["budget"]["costs"]] == ["Small"]
    assert evidence["device"] == "cpu"
    assert report_bytes(tmp_path) == report_bytes(whole)


def test_no_budget_to_speak_of_does_nothing(profile, tmp_path):
    status, out, error = run(tmp_path, profile, "--budget", "1s")
    assert status == 0, error
    assert (
        "within the budget: nothing\nleft for the next call: fig3_paths, fig1_source_count" in out
    )
    assert not list((tmp_path / "store").rglob("*.safetensors"))
    assert not (tmp_path / "report/index.html").exists()


def test_a_smaller_experiment_where_the_whole_one_does_not_fit(profile, tmp_path):
    "Stars are expensive here, so that the planner has to make less of them."
    cost = SimpleNamespace(
        setting=SimpleNamespace(name="small"), regular=lambda epochs: 10.0,
        star=lambda sources: 100.0 * sources, path=lambda points, repair: 0.0)
    names = ("fig3_paths", "fig1_source_count")
    planner = Planner({name: experiment(name, str(profile), tmp_path) for name in names}, [cost])
    assert planner.choose("fig3_paths", 800) == {}
    assert planner.choose("fig3_paths", 400) == {"sources": 3}
    assert planner.choose("fig1_source_count", 600) == {"source_counts": [1, 3]}
    assert planner.choose("fig1_source_count", 100) is None


def test_time_that_is_over_leaves_what_is_done_and_the_next_call_goes_on(tmp_path):
    """A star that takes far longer than was measured is stopped, and loses at most what it did
    since its last checkpoint."""
    path, store = tmp_path / "mine.toml", tmp_path / "store"
    path.write_text(PROFILE.replace("EPOCHS", "40000"))
    code = ("import sys, starlight_nb.paper.budget as budget\n"
            "budget.Planner.seconds = lambda *arguments, **options: 1.0\n"
            "from starlight_nb.paper.cli import main\nsys.exit(main(sys.argv[1:]))")
    words = [
        "reproduce", "--profile", str(path), "--jobs", "1", "--only", "fig3",
        "--budget", "30s", "--out",
        str(tmp_path / "report"), "--store", str(store),
    ]
    again = lambda: subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path,
        timeout=300, env=os.environ | {"STARLIGHT_CHECKPOINT": "0"})
    began, found = time.monotonic(), again()
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - began < 90 and "left for the next call: fig3_paths" in found.stdout
    count, wrong = verify(store)
    assert count >= 8 and not wrong and not list((tmp_path / "report").glob("notebooks/*"))
    under_way = stored(store, "checkpoint")
    assert len(under_way) == 1
    assert again().returncode == 0
    assert stored(store, "checkpoint")[0].written > under_way[0].written, "the star goes on"


WITHOUT = """
import sys
for name in ("papermill", "matplotlib", "seaborn", "jupyter_client", "nbclient"):
    sys.modules[name] = None
from starlight_nb.paper.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    "What one job makes where there is neither papermill nor Matplotlib."
    folder = tmp_path_factory.mktemp("node")
    (folder / "mine.toml").write_text(PROFILE.replace("EPOCHS", "4"))
    words = ["--profile", "mine.toml", "--jobs", "1", "--make"]
    made = subprocess.run(
        [sys.executable, "-c", WITHOUT, "reproduce", *words, "--store", "store", "--out", "report"],
        capture_output=True, text=True, cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "all measurements are made" in made.stdout and not (folder / "report/data").exists()
    return folder


def test_a_node_makes_and_a_laptop_draws(node, whole, tmp_path):
    """Measurements are carried without the models to a store from which the same report is drawn,
    with nothing made there."""
    laptop, file = tmp_path / "laptop", str(tmp_path / "measured.tar")
    laptop.mkdir()
    assert cli.main(["store", "export", file, "--store", str(node / "store")]) == 0
    assert cli.main(["store", "import", file, "--store", str(laptop / "store")]) == 0
    before = {entry.key for entry in stored(laptop / "store")}
    assert {entry.config["kind"] for entry in stored(laptop / "store")} == {"path"}
    status, out, error = run(laptop, whole / "mine.toml")
    assert status == 0, out + error
    assert {entry.key for entry in stored(laptop / "store")} == before
    assert report_bytes(laptop) == report_bytes(whole)


@pytest.fixture(scope="module")
def exported(smoke_report, tmp_path_factory):
    "All measurements of the smoke report in a file."
    file = tmp_path_factory.mktemp("exported") / "measured.tar"
    assert cli.main(["store", "export", str(file), "--store", str(smoke_report / "store")]) == 0
    return file


def imported(contents, folder, capsys):
    "What importing these bytes into an empty store says; it has to fail and leave nothing."
    file = folder / "changed.tar"
    file.write_bytes(contents)
    status = cli.main(["store", "import", str(file), "--store", str(folder / "store")])
    assert status == 2 and not list(folder.glob("store/*/*.safetensors"))
    return capsys.readouterr().err


def rebuilt(exported, change):
    "The export with its files (names and contents, in order) changed."
    with tarfile.open(exported) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    change(files)
    contents = io.BytesIO()
    with tarfile.open(fileobj=contents, mode="w") as archive:
        for name, own in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(own)
            archive.addfile(about, io.BytesIO(own))
    return contents.getvalue()


@pytest.mark.parametrize("place", ["header", "contents", "cut at a header", "cut in the middle"])
def test_a_damaged_export_is_refused_whole(place, exported, tmp_path, capsys):
    contents = bytearray(exported.read_bytes())
    with tarfile.open(exported) as archive: member = archive.getmembers()[3]
    position = member.offset_data + 200 if place == "contents" else member.offset + 5
    contents[position] ^= 1
    if place.startswith("cut"): del contents[position - 5 if place.endswith("header") else position:]
    assert "is no file of `starlight store export`, or is damaged" in imported(
        contents, tmp_path, capsys)


@pytest.mark.parametrize("config", [
    ["a"], "abc", {"kind": ["path"]}, {"kind": "regular", "seed": 3}, {"a": 1}])
def test_an_export_holds_measured_values_alone(config, exported, tmp_path, capsys):
    def foreign(files):
        path = tmp_path / f"{config_key(config)}.safetensors"
        write_tensors(path, {"values": torch.ones(2)}, config)
        files[path.name] = path.read_bytes()
        files["keys.json"] = json.dumps([*json.loads(files["keys.json"]), path.stem]).encode()
    said = imported(rebuilt(exported, foreign), tmp_path, capsys)
    assert f"{config_key(config)}.safetensors: it is no measured value" in said


def test_an_export_that_is_not_there_is_told(tmp_path, capsys):
    for file in (tmp_path / "nowhere.tar", tmp_path):
        assert cli.main(["store", "import", str(file), "--store", str(tmp_path / "store")]) == 2
        assert capsys.readouterr().err == f"starlight: import: there is no file {file}\n"
    assert not list(tmp_path.iterdir())


def test_names_in_an_export_lead_nowhere_else(exported, tmp_path, capsys):
    def upwards(files): files[".."] = b"x"
    assert "it does not have all of its entries" in imported(
        rebuilt(exported, upwards), tmp_path, capsys)


def test_a_damaged_entry_is_not_exported_and_is_mended_by_an_import(exported, tmp_path, capsys):
    store = tmp_path / "store"
    words = ["--store", str(store)]
    assert cli.main(["store", "import", str(exported), *words]) == 0
    path = next(store.glob("*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert cli.main(["store", "export", str(tmp_path / "again.tar"), *words]) == 2
    assert f"store: {path} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "again.tar").exists()
    assert cli.main(["store", "import", str(exported), *words]) == 0
    assert "1 measurements imported" in capsys.readouterr().out and not verify(store)[1]


def test_measurements_are_the_same_bytes_whatever_the_number_of_jobs(node, whole):
    "One job made those of the node, two jobs those of the whole run, notebooks included."
    one, two = ({path.name: path.read_bytes() for path in folder.glob("store/*/*.safetensors")}
                for folder in (node, whole))
    assert one == two and len(one) > 20


def test_a_job_that_fails_fails_the_experiments_that_need_it(profile, tmp_path):
    "A rate at which stars diverge; Fig. 3 of regular solutions alone does not exist here."
    text = profile.read_text().replace("star = {", "star = { lr = 1e8,")
    profile.write_text(text)
    status, out, error = run(tmp_path, profile, "--keep-going")
    assert status == 1
    for name in ("fig1_source_count", "fig3_paths"):
        assert f"{name} failed while Small: star-n" in error and "FloatingPointError" in error
    assert "Traceback" not in error and not list((tmp_path / "report").glob("notebooks/*"))
    assert not verify(tmp_path / "store")[1]


NEW_PLAN = '''

@plan
def fig9_levels(experiment) -> Plan:
    "Pairs of held-out solutions."
    return Plan([PairPart(study, regular_pairs(study.members("heldout", experiment.heldouts)))
                 for study in experiment.studies])
'''
NEW_CELLS = [
    ("markdown", "# Fig. 9: levels\n\n> How far apart are solutions?", None),
    ("code", 'profile: str = "smoke"\nsettings: list = None\nheldouts: int = None\n'
             "points: int = None", "parameters"),
    ("code", "from starlight_nb.paper.claims import save_claims\n"
             "from starlight_nb.paper.experiment import Experiment\n"
             "from starlight_nb.paper.plans import plan_of\n"
             "from starlight_nb.paper.report import save_summary, save_table\n"
             "from starlight_nb.paper.tables import source_count_table", None),
    ("code", 'experiment = Experiment("fig9_levels", profile, settings=settings,\n'
             "                        heldouts=heldouts, points=points)", None),
    ("code", "plan = plan_of(experiment)\nplan", None),
    ("code", "data = experiment.run(plan)\nlen(data)", None),
    ("code", "save_table(experiment, source_count_table(data))", None),
    ("markdown", "A row a setting.", None),
    ("code", "save_claims(experiment, data)", None),
    ("code", "save_summary(experiment)", None),
]


@pytest.fixture
def checkout(tmp_path):
    "A copy of package and notebooks with a new experiment: a plan, a notebook, a table in a profile."
    folder = tmp_path / "checkout"
    for part in ("starlight_nb", "nbs/experiments"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "settings.ini", folder)
    with open(folder / "starlight_nb/paper/plans.py", "a") as plans: plans.write(NEW_PLAN)
    notebook = json.loads((ROOT / "nbs/experiments/fig3_paths.ipynb").read_text())
    code = dict(execution_count=None, outputs=[])
    notebook["cells"] = [
        dict(cell_type=kind, id=f"cell-{n}", source=source,
             metadata={"tags": [tag]} if tag else {}, **(code if kind == "code" else {}))
        for n, (kind, source, tag) in enumerate(NEW_CELLS)]
    (folder / "nbs/experiments/fig9_levels.ipynb").write_text(json.dumps(notebook))
    return folder


def test_a_new_experiment_is_a_plan_a_notebook_and_a_table_in_a_profile(
    checkout, profile, tmp_path
):
    table = '[experiments.fig9_levels]\nsettings = ["small"]\nheldouts = 2\npoints = 5\n'
    profile.write_text(profile.read_text() + table)
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    main = "import sys; from starlight_nb.paper.cli import main; sys.exit(main(sys.argv[1:]))"
    def call(*words):
        words = ["reproduce", "--profile", str(profile), "--only", "fig9", "--jobs", "1", "--out",
                 str(tmp_path / "report"), "--store", str(tmp_path / "store"), *words]
        return subprocess.run([sys.executable, "-c", main, *words], env=environment, text=True,
                              capture_output=True, cwd=checkout, timeout=300)
    budgeted = call("--dry-run")
    assert budgeted.returncode == 0, budgeted.stderr
    assert "| fig9_levels" in budgeted.stdout and "| 2 " in budgeted.stdout
    found = call()
    assert found.returncode == 0, found.stderr
    page = (tmp_path / "report/index.html").read_text()
    assert "Fig. 9: levels" in page and "How far apart are solutions?" in page
    assert len(stored(tmp_path / "store")) == 3


def test_an_experiment_without_a_plan_cannot_run(checkout, profile, tmp_path):
    plans = checkout / "starlight_nb/paper/plans.py"
    plans.write_text(plans.read_text().replace(NEW_PLAN, ""))
    table = '[experiments.fig9_levels]\nsettings = ["small"]\nheldouts = 2\npoints = 5\n'
    profile.write_text(profile.read_text() + table)
    main = "import sys; from starlight_nb.paper.cli import main; sys.exit(main(sys.argv[1:]))"
    found = subprocess.run(
        [sys.executable, "-c", main, "reproduce", "--profile", str(profile), "--out",
         str(tmp_path / "report")], capture_output=True, text=True, cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)})
    assert found.returncode == 2
    assert "experiment 'fig9_levels' has no plan" in found.stderr


def test_shares_of_peaks_that_are_known():
    "A hundred images of 10^9 multiply-adds in a millisecond."
    setting = dataclasses.replace(
        load_profile("smoke").settings["mlp"], recipe=Recipe(batch_size=100)
    )
    cost = Cost(
        setting, (1000, 1), step=1e-3, star_step=1, match=1, rematch=1, evaluation=1, forward=1,
        refresh=1, multiply_adds=10**9, parameters=1, memory=1, device="NVIDIA H200")
    assert share_of_peak(cost) == pytest.approx(6e14 / 989e12)
    assert math.isnan(share_of_peak(dataclasses.replace(cost, device="cpu")))


# profiles that say something else than they should

STRANGE = [
    True, 0, -1, 2**70, 150_000, 0.5, 1e300, math.inf, math.nan, "", " ", "NA", "=1+1", "$x_{$",
    "<b>|x|</b>", "x" * 10_000, "a\nb", "\x07\u202e", "smoke", "../x", "os:system", "math:inf",
    [], [[]], ["mlp"], ["mlp", "mlp"], [1, 2, 2], [True], [-1], {}, {"a": 1}, {"num_classes": 3},
    {"depth": 10**6}, {"width": 10**9}, [1e9], datetime.date(2020, 1, 1)]
KEYS = ["", "settings", "like", "seed_set", "minutes", "resources", "device", "a.b", "star", "model",
        "measured_examples", "partial", "label", "sources", "é", "title", "dataset"]


def toml(value):
    "A value as TOML; tables are inline."
    if isinstance(value, bool): return str(value).lower()
    if isinstance(value, str): return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list): return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(own)}" for key, own in value.items()) + "}"
    return str(value)


def places(content):
    "Every place in nested tables and lists: what holds it, and its key or number there."
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], (dict, list)): yield from places(content[key])


def changed_lines(lines, generator):
    "The text without a line, with a line twice, or with half of a line."
    number, action = generator.randrange(len(lines)), generator.randrange(3)
    if action == 0: del lines[number]
    elif action == 1: lines.insert(generator.randrange(len(lines)), lines[number])
    else: lines[number] = lines[number][:generator.randrange(len(lines[number]) + 1)]
    return "\n".join(lines)


def changed_content(content, generator):
    "The text of a profile in which one thing is gone, is there twice, or is something else."
    within = content["settings"] if generator.random() < 0.6 else content
    holder, key = generator.choice(list(places(within)))
    action, value = generator.randrange(4), generator.choice(STRANGE)
    if action == 0: del holder[key]
    elif action == 1: holder[key] = value
    elif isinstance(holder, list): holder.append(holder[key] if action == 2 else value)
    elif action == 2: holder[generator.choice([*KEYS, f"{key}s"])] = holder.pop(key)
    else: holder[generator.choice([*KEYS, f"{key}s"])] = value
    return "\n".join(f"{json.dumps(key)} = {toml(own)}" for key, own in content.items())


def mutated_profile(seed):
    "The smoke profile with one mutation."
    generator, text = random.Random(seed), (PROFILES / "smoke.toml").read_text()
    if generator.random() < 0.15: return changed_lines(text.splitlines(), generator)
    return changed_content(tomllib.loads(text), generator)


@pytest.mark.parametrize("seeds", [
    range(30), pytest.param(range(30, 630), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_mutated_profile_is_one_clear_error_or_plans_a_run(seeds, tmp_path, capsys, monkeypatch):
    "Everything that comes before the run is done, its plans too."
    planned = []

    def plan_only(request, environment, *_):
        placed = request.placed(environment).values()
        planned.append([plan_of(experiment).counts() for experiment in placed])
    monkeypatch.setattr(runner, "_run_request", plan_only)
    path, statuses = tmp_path / "mine.toml", Counter()
    for seed in seeds:
        path.write_text(mutated_profile(seed))
        status = cli.main(["reproduce", "--profile", str(path), "--out", str(tmp_path / "report"),
                           "--store", str(tmp_path / "store")])
        statuses[status] += 1
        error = capsys.readouterr().err
        if status == 0: assert not error
        else:
            assert status == 2 and error.startswith("starlight: ") and error.count("\n") == 1, seed
            assert len(error) < 900 and "Traceback" not in error, seed
    assert len(planned) == statuses[0] and min(statuses[0], statuses[2]) > 0
    assert [found.name for found in tmp_path.iterdir()] == ["mine.toml"]
