"""What a profile costs, and budgets: the plan is what a run makes, and whatever the time allows leaves a store and a report that are whole."""
import dataclasses
import json
import math
import os
import subprocess
import sys
import time

import pytest
from conftest import finish, report_bytes, starlight

from starlight_nb.paper import cli, runner
from starlight_nb.paper.catalogue import experiment_names
from starlight_nb.runtime.store import config_key
from starlight_nb.paper.housekeeping import stored, verify
from starlight_nb.paper.costs import Cost, share_of_peak
from starlight_nb.paper.plans import Planner, needs_of, seconds_of
from starlight_nb.training import Recipe
from starlight_nb.runtime.store import Store
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.profiles import load_profile

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


def experiment(name, profile="smoke"):
    return Experiment(name, profile, **dict.fromkeys(key for key in runner.notebook_parameters(name) if key != "profile"))


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE.replace("EPOCHS", "4"))
    return path


def run(folder, profile, *words, **environment):
    return finish(starlight("reproduce", "--profile", str(profile), "--jobs", "1", *words, folder=folder, **environment))


def test_the_plan_is_what_a_run_makes(smoke_report):
    "For every experiment, all models and paths; nothing is forgotten and nothing made up."
    planned = {config_key(config): config["kind"] for name in experiment_names() for own in needs_of(experiment(name))
               for config in [*(member.config for member in own.regular + own.stars), *own.paths]}
    made = {entry.key: entry.config["kind"] for entry in stored(smoke_report / "store") if entry.config.get("points") != 5}  # 5: another test's
    assert planned == {key: kind for key, kind in made.items() if kind in ("regular", "star", "path")}


def test_what_is_stored_costs_nothing(smoke_report, tmp_path):
    class Costs(dict):
        def __missing__(self, name):
            return type("Cost", (), dict(regular=100.0, star=lambda self, n: 100.0, path=lambda self, points: 100.0, examples=(1, 1), look=0.0))()
    needs = needs_of(experiment("fig1_source_count"))
    assert seconds_of(needs, Costs(), Store(tmp_path)) > 1000 and seconds_of(needs, Costs(), Store(smoke_report / "store")) < 20


def test_a_dry_run_says_what_it_costs_and_writes_nothing(profile, tmp_path):
    status, out, error = run(tmp_path, profile, "--dry-run")
    assert status == 0, error
    for word in ("training (images/s)", "Starlight (images/s)", "a pair (s)", "a matching (s)", "memory up to", "| fig3_paths", "| fig1_source_count", "minutes"):
        assert word in out, word
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize("budget", ["25", "soon", "0min", "-5s"])
def test_a_budget_is_a_time(budget, profile, tmp_path, capsys):
    assert cli.main(["reproduce", "--profile", str(profile), f"--budget={budget}", "--out", str(tmp_path / "report"), "--store", str(tmp_path / "store")]) == 2
    assert f"budget: a time such as 90s, 25min or 1.5h is needed, not '{budget}'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_device_that_there_is_not(profile, tmp_path, capsys):
    assert cli.main(["reproduce", "--profile", str(profile), "--device", "cuda:77", "--out", str(tmp_path / "report")]) == 2
    assert "device: 'cuda:77' is asked for, and PyTorch sees" in capsys.readouterr().err


def test_a_budget_that_is_enough_gives_the_report_of_a_run_without_one(profile, tmp_path):
    status, out, error = run(tmp_path, profile, "--budget", "20min")
    assert status == 0, error
    assert "within the budget: fig3_paths; fig1_source_count" in out and "left for the next call" not in out
    evidence = json.loads((tmp_path / "report/evidence.json").read_text())
    assert evidence["budget"].items() >= {"done": {"fig3_paths": {}, "fig1_source_count": {}}, "left": []}.items()
    assert [row["setting"] for row in evidence["budget"]["costs"]] == ["Small"] and evidence["device"] == "cpu"
    (tmp_path / "other").mkdir()
    status, out, error = run(tmp_path / "other", profile)
    assert status == 0, error
    assert report_bytes(tmp_path) == report_bytes(tmp_path / "other")


def test_no_budget_to_speak_of_does_nothing(profile, tmp_path):
    status, out, error = run(tmp_path, profile, "--budget", "1s")
    assert status == 0, error
    assert "within the budget: nothing\nleft for the next call: fig3_paths, fig1_source_count" in out
    assert not list((tmp_path / "store").rglob("*.safetensors")) and not (tmp_path / "report/index.html").exists()


def test_a_smaller_experiment_where_the_whole_one_does_not_fit(profile, tmp_path):
    "Stars are expensive here, so that the planner has to make less of them."
    three, costs = experiment("fig3_paths", str(profile)), [type("Cost", (), dict(
        setting=type("Setting", (), dict(name="small")), regular=10.0, star=lambda self, n: 100.0 * n, path=lambda self, points: 0.0, examples=(1, 1), look=0.0))()]
    planner = Planner({"fig3_paths": three, "fig1_source_count": experiment("fig1_source_count", str(profile))}, costs, Store(tmp_path / "store"))
    assert planner.choose("fig3_paths", 800) == {} and planner.choose("fig3_paths", 400) == {"sources": 3}
    assert planner.choose("fig1_source_count", 600) == {"source_counts": [1, 3]} and planner.choose("fig1_source_count", 100) is None


def test_time_that_is_over_leaves_what_is_done_and_the_next_call_goes_on(tmp_path):
    "A star that takes far longer than was measured is stopped, and loses at most what it did since its last checkpoint."
    path, store = tmp_path / "mine.toml", tmp_path / "store"
    path.write_text(PROFILE.replace("EPOCHS", "4000"))
    code = ("import sys, starlight_nb.planning as planning\n"
            "planning.seconds_of = lambda *arguments: 1.0\n"
            "from starlight_nb.reproduce import main\nsys.exit(main(sys.argv[1:]))")
    words = ["reproduce", "--profile", str(path), "--jobs", "1", "--budget", "15s", "--out", str(tmp_path / "report"), "--store", str(store)]
    again = lambda: subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, timeout=300,
                                   env=os.environ | {"STARLIGHT_CHECKPOINT": "0"})
    began, found = time.monotonic(), again()
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - began < 60 and "left for the next call: fig3_paths" in found.stdout
    count, wrong = verify(store)
    assert count >= 8 and not wrong and not list((tmp_path / "report").glob("notebooks/*"))
    (under_way,) = stored(store, "checkpoint")
    assert again().returncode == 0
    assert stored(store, "checkpoint")[0].written > under_way.written, "the star goes on"


def test_shares_of_peaks_that_are_known():
    "A hundred images of 10^9 multiply-adds in a millisecond."
    setting = dataclasses.replace(load_profile("smoke").settings["mlp"], recipe=Recipe(batch_size=100))
    cost = Cost(setting, (1000, 1), step=1e-3, star_step=1, match=1, rematch=1, look=1, forward=1, refresh=1, multiply_adds=10**9, parameters=1, memory=1, device="NVIDIA H200")
    assert share_of_peak(cost) == pytest.approx(6e14 / 989e12) and math.isnan(share_of_peak(dataclasses.replace(cost, device="cpu")))
