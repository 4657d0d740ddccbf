"""The runner: the same bytes every time, whatever happens on the way, and one clear word about what is wrong."""
import html.parser
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, finish, report_bytes, starlight

from starlight_nb import reproduce
from starlight_nb.base import experiment_names

FIG3 = ["reproduce", "--profile", "smoke", "--only", "fig3"]


def test_a_report_is_complete(smoke_report):
    report = smoke_report / "report"
    for name in experiment_names():
        summary = json.loads((report / f"data/{name}.json").read_text())
        assert summary["finding"] and summary["experiment"] == name
        for file in [f"data/{name}.csv", f"notebooks/{name}.ipynb", *summary["tables"], *(f["file"] for f in summary["figures"])]:
            assert (report / file).stat().st_size > 100, file
        for kind in ("csv", "md", "tex"):
            assert (report / f"tables/{name}.{kind}").exists()
    assert not (report / ".staging").exists() and not (report / "failed").exists()
    evidence = json.loads((report / "evidence.json").read_text())
    assert set(evidence["wall_seconds"]) == set(experiment_names()) and all(evidence["versions"].values())


def test_two_runs_from_empty_stores_are_the_same_bytes(smoke_report, tmp_path):
    "Even when one of them has a single worker."
    status, out, error = finish(starlight("reproduce", "--profile", "smoke", "--jobs", "1", folder=tmp_path))
    assert status == 0, out + error
    assert report_bytes(tmp_path) == report_bytes(smoke_report)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(smoke_report, tmp_path):
    entries = lambda: len(list((tmp_path / "store").glob("*/*.safetensors")))
    for enough in (2, 7, 12):
        process = starlight("reproduce", "--profile", "smoke", "--only", "fig1,fig3", folder=tmp_path)
        while entries() < enough and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)  # its end comes when the last kernel and worker that hold it open have gone
    assert entries() >= 12
    status, out, error = finish(starlight("reproduce", "--profile", "smoke", "--only", "fig1,fig3", folder=tmp_path))
    assert status == 0, out + error
    whole, again = report_bytes(smoke_report), report_bytes(tmp_path)
    assert again.keys() >= {"data/fig1_source_count.csv", "figures/fig3_paths.svg", "notebooks/fig3_paths.ipynb"}
    assert all(again[name] == whole[name] for name in again if name not in ("index.html", "README.md"))


def test_a_stored_run_trains_nothing_and_force_trains_all(smoke_report, tmp_path):
    store = smoke_report / "store"
    before = {p: p.stat().st_mtime for p in store.glob("*/*.safetensors")}
    status, out, error = finish(starlight(*FIG3, folder=tmp_path, store=store))
    assert status == 0, out + error
    assert {p: p.stat().st_mtime for p in store.glob("*/*.safetensors")} == before
    first = report_bytes(tmp_path)
    status, out, error = finish(starlight(*FIG3, "--force", folder=tmp_path, store=store))
    assert status == 0, out + error
    assert sum(p.stat().st_mtime > before[p] for p in before) >= 10 and report_bytes(tmp_path) == first


def test_parameters_take_the_place_of_the_profile(smoke_report, tmp_path):
    status, out, error = finish(starlight(*FIG3, "-p", 'settings=["mlp"]', "-p", "points=5", folder=tmp_path, store=smoke_report / "store"))
    assert status == 0, out + error
    summary = json.loads((tmp_path / "report/data/fig3_paths.json").read_text())
    assert summary["parameters"]["points"] == 5 and list(summary["settings"]) == ["mlp"]
    assert "resnet" not in (tmp_path / "report/data/fig3_paths.csv").read_text()


@pytest.mark.parametrize("words, message", [
    (["--profile", "smok"], "profile: 'smok' is not known; did you mean 'smoke'"),
    (["--profile", "nowhere.toml"], "profile: there is no file nowhere.toml"),
    (["-p", "star=3"], "parameter: 'star' is not known; did you mean 'stars'"),
    (["-p", "stars=three"], "parameter stars: a value of type int is needed, not 'three'"),
    (["-p", "settings=mlp"], "parameter settings: a value of type list is needed"),
    (["-p", "sources=99"], "sources: 99 are asked for, setting 'mlp' of profile 'smoke' has 4 sources"),
    (["-p", "source_counts=[2,5]"], "source_counts: 5 are asked for"),
    (["--only", "fig7"], "only: 'fig7' is not known"), (["--jobs", "0"], "jobs: at least one worker")])
def test_bad_input_is_told_before_anything_runs(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words if "--profile" in words else ["--profile", "smoke", *words]
    assert reproduce.main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_malformed_parameter_is_told(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["reproduce", "-p", "stars"])
    assert "'stars' is not of the form name=value" in capsys.readouterr().err


@pytest.fixture
def broken(tmp_path, monkeypatch):
    "A folder of experiments in which fig3 fails in its second code cell, and fig1 is a notebook of one line."
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "profiles").symlink_to(ROOT / "nbs/experiments/profiles")
    for name in experiment_names():
        notebook = json.loads((ROOT / f"nbs/experiments/{name}.ipynb").read_text())
        position = next(i for i, cell in enumerate(notebook["cells"]) if "parameters" in cell["metadata"].get("tags", []))
        source = "raise ZeroDivisionError('on purpose')" if name == "fig3_paths" else "print('fine')"
        notebook["cells"] = notebook["cells"][:position + 1] + [dict(notebook["cells"][position], id="next", metadata={}, source=source)]
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr(reproduce, "experiments_folder", lambda: folder)
    return tmp_path


def test_a_failing_notebook_stops_the_run_and_is_shown(broken, capsys):
    out = broken / "report"
    (out / "data").mkdir(parents=True)
    (out / "data/fig3_paths.csv").write_text("as it was")
    words = ["reproduce", "--profile", "smoke", "--out", str(out), "--store", str(broken / "store")]
    assert reproduce.main(words) == 1
    said = capsys.readouterr()
    failed = out / "failed/fig3_paths.ipynb"
    assert "fig3_paths failed in cell" in said.err and "ZeroDivisionError: on purpose" in said.err and str(failed) in said.err
    assert "on purpose" in failed.read_text() and (out / "data/fig3_paths.csv").read_text() == "as it was"
    assert (out / "notebooks/fig1_source_count.ipynb").exists() and not (out / "notebooks/fig3_paths.ipynb").exists()
    assert "table1_barriers" not in said.out, "it stops at the first failing notebook"
    assert reproduce.main([*words, "--keep-going"]) == 1
    assert "table1_barriers: done" in capsys.readouterr().out and (out / "notebooks/table1_barriers.ipynb").exists()


def test_two_runs_on_one_report_do_not_mix(tmp_path, capsys):
    with reproduce._only_run((tmp_path / "report").resolve(), (tmp_path / "store").resolve()):
        assert reproduce.main([*FIG3, "--out", str(tmp_path / "report"), "--store", str(tmp_path / "store")]) == 2
    assert "out: another run is writing to" in capsys.readouterr().err


def test_help_and_list_answer_without_torch():
    for words in (["--help"], ["list"], ["reproduce", "--help"]):
        code = f"import sys; sys.argv = ['starlight', *{words!r}]\nfrom starlight_nb.reproduce import main\ntry: main()\nexcept SystemExit: pass\nassert not {{'torch', 'papermill', 'pandas'}} & set(sys.modules)"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "fig1_source_count" in result.stdout or "usage: starlight" in result.stdout


def test_the_doctor_names_what_is_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STARLIGHT_DATA", str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STARLIGHT_STORE", str(tmp_path / "file" / "store"))
    assert reproduce.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "ok   torch imports" in said and "ok   kernel python3" in said
    assert "WRONG data folder: STARLIGHT_DATA names" in said and "WRONG store folder:" in said


class Links(html.parser.HTMLParser):
    "Collects what a page refers to."
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_the_gallery_leads_somewhere_and_needs_no_network(smoke_report):
    report, links = smoke_report / "report", Links()
    page = (report / "index.html").read_text()
    links.feed(page)
    assert len(links.found) > 12 and all((report / link).exists() for link in links.found)
    for name in experiment_names():
        finding = json.loads((report / f"data/{name}.json").read_text())["finding"]
        assert finding[:60] in (report / "README.md").read_text()


def test_executed_notebooks_hold_no_trace_of_the_machine(smoke_report):
    for path in (smoke_report / "report").rglob("*"):
        if path.suffix in (".ipynb", ".json", ".csv", ".md", ".html") and path.name != "evidence.json":
            text = path.read_text()
            for trace in (str(smoke_report), str(ROOT), str(Path.home()), " at 0x"):
                assert trace not in text, f"{path.name}: {trace}"


def test_data_keep_the_contract(smoke_report):
    import pandas as pd
    from starlight_nb.study import COLUMNS
    for name in experiment_names():
        data = pd.read_csv(smoke_report / f"report/data/{name}.csv")
        assert list(data.columns) == COLUMNS + ["matching"] * (name == "table1_barriers")
        assert set(data.pair) <= {"regular-regular", "star-source", "star-heldout", "single"} and set(data.split) == {"train", "test"}
        assert not data.duplicated([c for c in data.columns if c != "value"]).any()
