"""The runner: the same bytes every time, whatever happens on the way, and one clear word about what
is wrong."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, finish, make_study, measured_paths, report_bytes, starlight

from starlight_nb.paper import cli, doctor as doctor_module, housekeeping, runner
from starlight_nb.paper.catalogue import experiment_names, profile_names
from starlight_nb.paper.request import check_request
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.settings import shown
from starlight_nb.runtime.store import Store

FIG3 = ["reproduce", "--profile", "smoke", "--only", "fig3"]


def test_a_report_is_complete(smoke_report):
    report = smoke_report / "report"
    for name in experiment_names():
        summary = json.loads((report / f"data/{name}.json").read_text())
        assert summary["experiment"] == name
        for file in [
            f"data/{name}.csv",
            f"notebooks/{name}.ipynb",
            *summary["tables"],
            *filter(None, [summary.get("comparison")]),
            *(f["file"] for f in summary["figures"]),
        ]:
            assert (report / file).stat().st_size > 100, file
        for kind in ("csv", "md", "tex"):
            assert (report / f"tables/{name}.{kind}").exists()
    assert not (report / ".staging").exists() and not (report / "failed").exists()
    evidence = json.loads((report / "evidence.json").read_text())
    assert set(evidence["notebook_seconds"]) == set(experiment_names())
    assert evidence["making"]["jobs"] > 100 and evidence["making"]["cpu_seconds"] > 1
    assert all(evidence["versions"].values())


@pytest.mark.slow
def test_two_runs_from_empty_stores_are_the_same_bytes(smoke_report, tmp_path):
    "Even when one of them has a single worker; a smaller profile is compared in test_planning."
    words = ["reproduce", "--profile", "smoke", "--jobs", "1"]
    status, out, error = finish(starlight(*words, folder=tmp_path))
    assert status == 0, out + error
    assert report_bytes(smoke_report) == report_bytes(tmp_path)


def test_a_stored_run_trains_nothing(smoke_report, tmp_path):
    store = smoke_report / "store"
    before = {p: p.stat().st_mtime for p in store.glob("*/*.safetensors")}
    status, out, error = finish(starlight(*FIG3, folder=tmp_path, store=store))
    assert status == 0, out + error
    assert {p: p.stat().st_mtime for p in store.glob("*/*.safetensors")} == before
    found, whole = report_bytes(tmp_path), report_bytes(smoke_report)
    assert {name for name in found if found[name] != whole[name]} == {"README.md", "index.html"}


def test_parameters_take_the_place_of_the_profile(smoke_report, tmp_path):
    status, out, error = finish(
        starlight(
            *FIG3,
            "-p",
            'settings=["mlp"]',
            "-p",
            "points=5",
            folder=tmp_path,
            store=smoke_report / "store",
        )
    )
    assert status == 0, out + error
    summary = json.loads((tmp_path / "report/data/fig3_paths.json").read_text())
    assert summary["parameters"]["points"] == 5 and list(summary["settings"]) == ["mlp"]
    assert "resnet" not in (tmp_path / "report/data/fig3_paths.csv").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--profile", "smok"], "profile: 'smok' is not known; did you mean 'smoke'"),
        (["--profile", "nowhere.toml"], "profile: there is no file nowhere.toml"),
        (["-p", "star=3"], "parameter: 'star' is not known; did you mean 'stars'"),
        (["-p", "stars=three"], "parameter stars: a value of type int is needed, not 'three'"),
        (["-p", "settings=mlp"], "parameter settings: a value of type list is needed"),
        (
            ["-p", "sources=99"],
            "sources: 99 are asked for, setting 'mlp' of profile 'smoke' has 4 sources",
        ),
        (["-p", "source_counts=[2,5]"], "source_counts: 5 are asked for"),
        (["--only", "fig7"], "only: 'fig7' is not known (accepted: "),
        (["--only", "fig9"], "only: 'fig9' is not known (accepted: "),
        (["-p", "nonsense=1"], "parameter: 'nonsense' is not known (accepted: "),
        (["--out", ""], "out: the path of a folder is needed, not ''"),
        (["--store", ""], "store: the path of a folder is needed, not ''"),
        (["--only", "table"], "only: 'table' is the start of several: table1_barriers, table2_fusion"),
        (["--only", "FIG1"], "only: 'FIG1' is not known; did you mean 'fig1_source_count'?"),
        (["--only", "fig1,"], "only: one of the names is empty"),
        (["--only", ""], "only: one of the names is empty"),
        (
            ["--profile", "digits", "--only", "beyond_kernel"],
            "only: profile 'digits' does not have 'beyond_kernel'; profiles that have it: ",
        ),
        (["--jobs", "0"], "jobs: a whole number of at least 1"),
        (["--jobs", "100000000"], "jobs: a whole number of at least 1 and at most 1024 is needed"),
        (["--backend", "rya"], "backend: 'rya' is not known; did you mean 'ray'"),
        (["--backend", "threads"], "backend: 'threads' is not known (accepted: processes, ray)"),
        (
            ["--ray-address", "auto"],
            "ray-address: 'auto' is given, but the backend is 'processes', not 'ray'",
        ),
    ],
)
def test_bad_input_is_told_before_anything_runs(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words if "--profile" in words else ["--profile", "smoke", *words]
    assert cli.main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(only=[3]), "only: 3 is not a name"),
        (dict(only=3), "only: a list of names is needed, not 3"),
        (dict(parameters=["a"]), r"parameters: a dict .* is needed, not \['a'\]"),
        (dict(parameters="points=3"), "parameters: a dict .* is needed, not 'points=3'"),
        (dict(jobs="2"), "jobs: a whole number of at least 1 and at most 1024 is needed, not '2'"),
    ],
)
def test_bad_arguments_in_python_are_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        runner.reproduce("smoke", **arguments)
    assert not list(tmp_path.iterdir())


def test_one_name_is_a_list_of_one():
    assert list(check_request("smoke", "fig1", {}).experiments) == ["fig1_source_count"]


def test_a_malformed_parameter_is_told(capsys):
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "-p", "stars"])
    assert "'stars' is not of the form name=value" in capsys.readouterr().err


@pytest.fixture
def broken(tmp_path, short_notebooks):
    "Short experiments, of which fig3 fails in its second code cell."
    short_notebooks(fig3_paths="raise ZeroDivisionError('on purpose')")
    return tmp_path


# one before that which fails, and one after it
THREE = ["reproduce", "--profile", "smoke", "--only", "fig1,fig3,table1"]


def test_a_failing_notebook_stops_the_run_and_is_shown(broken, capsys):
    out = broken / "report"
    (out / "data").mkdir(parents=True)
    (out / "data/fig3_paths.csv").write_text("as it was")
    words = [*THREE, "--out", str(out), "--store", str(broken / "store")]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    failed = out / "failed/fig3_paths.ipynb"
    assert "fig3_paths failed in cell" in said.err
    assert "ZeroDivisionError: on purpose" in said.err
    assert str(failed) in said.err
    assert "on purpose" in failed.read_text()
    assert (out / "data/fig3_paths.csv").read_text() == "as it was"
    assert (out / "notebooks/fig1_source_count.ipynb").exists()
    assert not (out / "notebooks/fig3_paths.ipynb").exists()
    assert "table1_barriers" not in said.out, "it stops at the first failing notebook"
    assert cli.main([*words, "--keep-going"]) == 1
    assert "table1_barriers: done" in capsys.readouterr().out
    assert (out / "notebooks/table1_barriers.ipynb").exists()


@pytest.mark.parametrize(
    "target", ["notebooks/fig1_source_count.ipynb", "README.md", "evidence.json"]
)
def test_a_disk_that_fills_up_while_the_report_is_written_leaves_whole_files(
    target, broken, capsys, monkeypatch
):
    out, replace = broken / "report", os.replace
    words = [
        "reproduce", "--profile", "smoke", "--only", "fig1", "--out", str(out), "--store",
        str(broken / "store"),
    ]
    before = "as it was, with evidence.json"  # a page of a report, not of somebody else
    write_atomic(out / target, before)

    def full(old, new):
        if new == out / target:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(old))
        replace(old, new)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert cli.main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"starlight: the folder {out} cannot be written to: the disk is full")
    assert (out / target).read_text() == before and not list(out.rglob(".*"))
    assert cli.main(words) == 0 and (out / target).read_text() != before


def test_a_failing_notebook_is_told_even_where_it_cannot_be_kept(broken, capsys):
    out = broken / "report"
    write_atomic(out / "failed", "a file where a folder should be")
    assert (
        cli.main(
            [
                "reproduce", "--profile", "smoke", "--only", "fig3", "--out", str(out), "--store",
                str(broken / "store"),
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert "ZeroDivisionError: on purpose" in said
    assert f"could not be kept: the folder {out}/failed cannot be written to" in said


def test_a_forced_run_for_machines_trains_all_and_prints_json_and_nothing_else(
    smoke_report, tmp_path
):
    store = shutil.copytree(
        smoke_report / "store", tmp_path / "store", ignore=shutil.ignore_patterns("locks")
    )
    before = {p: p.stat().st_mtime for p in store.glob("*/*.safetensors")}
    status, out, error = finish(
        starlight(*FIG3, "--force", "--log-json", folder=tmp_path, store=store)
    )
    assert status == 0, out + error
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["time"] for e in events] == sorted(e["time"] for e in events)
    assert all(e["time"].endswith("+00:00") for e in events)
    told = [e for e in events if e["event"] == "progress"]
    assert told
    assert all(
        e.keys() == {"time", "event", "name", "done", "total", "seconds_left", "under_way"}
        for e in told
    )
    assert {e["name"] for e in told} == {"measurements", "notebooks"}
    first, started, *_, last = events
    (done,) = (e for e in events if e["event"].startswith("notebook"))
    assert (
        first.items()
        >= {
            "event": "run started",
            "profile": "smoke",
            "report": str(tmp_path / "report"),
            "notebooks": ["fig3_paths"],
        }.items()
    )
    assert started["event"] == "making started" and started["total"] > 10
    made = next(e for e in events if e["event"] == "making done")
    assert made["total"] == started["total"] and made["failed"] == []
    assert done["event"] == "notebook done"
    assert done["name"] == "fig3_paths"
    assert 0 < done["seconds"] <= last["seconds"]
    assert last["event"] == "run done" and last["failed"] == []
    assert sum(p.stat().st_mtime > before[p] for p in before) >= 10
    found, whole = report_bytes(tmp_path), report_bytes(smoke_report)
    assert {name for name in found if found[name] != whole[name]} == {"README.md", "index.html"}


def test_a_failing_notebook_is_told_to_machines_too(broken, capsys):
    words = [
        *THREE, "--out", str(broken / "report"), "--store", str(broken / "store"), "--keep-going",
        "--log-json",
    ]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    failed, = (e for e in events if e["event"] == "notebook failed")
    assert failed["name"] == "fig3_paths"
    assert "ZeroDivisionError: on purpose" in failed["error"]
    assert "on purpose" in said.err
    assert [e["event"] for e in events if e["event"] != "progress"] == [
        "run started", "making started", "making done", "notebook done", "notebook failed",
        "notebook done", "run done",
    ]
    assert events[-1]["failed"] == ["fig3_paths"]


def test_a_cluster_that_does_not_answer_is_told_before_anything_runs(tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    assert cli.main([*FIG3, "--backend", "ray", "--ray-address", "localhost:1"]) == 2
    assert (
        "starlight: ray-address: no Ray cluster answers at localhost:1" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument, wrong, message", [
    *((name, 5, f"{name}: the path of a folder is needed, not 5") for name in ("out", "store", "data")),
    ("profile", None, "profile: the name of a profile, or the path of a TOML file, is needed, not None"),
    ("only", [], "only: at least one experiment is needed; None selects all"),
    ("only", 3, "only: a list of names is needed, not 3"),
    ("parameters", [], r"parameters: a dict of values by their names is needed, not \[\]"),
    ("jobs", "2", "jobs: a whole number of at least 1 and at most 1024 is needed, not '2'"),
    ("budget", 90, "budget: a time such as 90s, 25min or 1.5h is needed, not 90"),
    ("device", 0, "device: auto, cpu, cuda, or cuda:1 for the second GPU is needed, not 0"),
    ("backend", 0, r"backend: 0 is not known \(accepted: processes, ray\)"),
    ("ray_address", 0, "ray-address: the address of a cluster is needed, .*, not 0"),
    *((name, "no", f"{name}: True or False is needed, not 'no'")
      for name in ("dry_run", "make_only", "force", "keep_going", "log_json"))])
def test_an_argument_of_another_kind_is_told_before_anything_runs(
    argument, wrong, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{message}$"):
        runner.reproduce(**{"profile": "smoke", "only": "fig3", argument: wrong})
    assert not list(tmp_path.iterdir())


def test_the_start_of_an_experiment_s_name_in_a_profile_is_completed(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('like = "smoke"\n[experiments.fig1]\nstars = 1\n')
    assert cli.main(["reproduce", "--profile", str(tmp_path / "mine.toml"), "--dry-run"]) == 2
    assert "experiments: 'fig1' is not known; did you mean 'fig1_source_count'?" in capsys.readouterr().err


def test_two_runs_on_one_report_do_not_mix(tmp_path, capsys):
    "Whatever their stores."
    with runner._only_run((tmp_path / "report").resolve()):
        assert (
            cli.main(
                [*FIG3, "--out", str(tmp_path / "report"), "--store", str(tmp_path / "store")]
            )
            == 2
        )
    assert "out: another run is writing to" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    assert not list((tmp_path / "report").iterdir())


@pytest.fixture
def kept(tmp_path):
    "A store with two solutions, their path, and what a killed run leaves."
    from starlight_nb.paper.members import entry_config, regular_pairs
    from starlight_nb.paper.profiles import load_profile
    store = Store(tmp_path / "store")
    study = make_study(load_profile("smoke").settings["mlp"], store)
    measured_paths(study, regular_pairs(study.members("heldout", 2)))
    first = next(iter(study.members("heldout", 1)))
    path = store.path(first.config)
    path.with_name(f".{path.name}.1.2.new").write_bytes(b"half")
    path.with_name(f"{path.name}.damaged").write_bytes(b"damaged")
    store.checkpoint(first.config).save({})
    unfinished = entry_config("regular", seed=7, dataset="digits", architecture="mlp")
    store.checkpoint(unfinished).save({})
    return store


def store_command(kept, *words):
    return cli.main(["store", *words, "--store", str(kept.root)])


def files(kept):
    return {
        str(p.relative_to(kept.root)): p.read_bytes() for p in kept.root.rglob("*") if p.is_file()
    }


def test_the_store_is_listed(kept, capsys):
    assert store_command(kept, "ls") == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert len(rows) == 5 and total.startswith("5 entries, ")
    assert [row.split()[0] for row in rows[:2]] == [kept.path(m.config).stem for m in held(kept)]
    assert "heldout-0 to heldout-1" in rows[2]
    assert "digits mlp" in rows[2]
    assert all("unfinished" in row for row in rows[3:])
    assert all(re.search(r"\d k?B\b", row) for row in rows) and rows[0].rstrip().endswith(" s")


def held(kept):
    from starlight_nb.paper.members import regular_member
    from starlight_nb.paper.profiles import load_profile
    return [regular_member(load_profile("smoke").settings["mlp"], "heldout", n) for n in range(2)]


def test_the_store_is_verified(kept, capsys):
    assert store_command(kept, "verify") == 0 and "5 files, 0 damaged" in capsys.readouterr().out
    one, other = (kept.path(m.config) for m in held(kept))
    whole = one.read_bytes()
    one.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    before = files(kept)
    assert store_command(kept, "verify") == 1
    assert (
        f"damaged: {one.relative_to(kept.root)} (its digest does not match its contents)"
        in capsys.readouterr().out
    )
    assert files(kept) == before, "it only looks"
    one.write_bytes(other.read_bytes())
    assert store_command(kept, "verify") == 1
    assert "its name is not the key of its configuration" in capsys.readouterr().out
    one.write_bytes(b"")
    assert store_command(kept, "verify") == 1 and store_command(kept, "ls") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows if " damaged " in row] == [[one.stem, "damaged"]]


def test_leftovers_are_pruned_and_nothing_else(kept, capsys):
    before = files(kept)
    assert store_command(kept, "prune", "--dry-run") == 0
    would = capsys.readouterr().out
    assert files(kept) == before
    assert store_command(kept, "prune") == 0
    said = capsys.readouterr().out
    assert said == would.replace("would remove", "removed")
    assert said.splitlines()[-1].startswith("removed 6 files, ")
    assert len(said.splitlines()) == 7
    gone = before.keys() - files(kept).keys()
    assert {Path(name).suffix for name in gone} == {".new", ".damaged", ".checkpoint", ""}
    assert len(gone) == 6
    assert sum(name.endswith(".checkpoint") for name in files(kept)) == 1, (
        "that of a training that was killed stays"
    )
    assert store_command(kept, "prune") == 0 and capsys.readouterr().out == "removed 0 files, 0 B\n"


def test_damaged_files_are_pruned(kept, capsys):
    "An entry that another process works on stays."
    first, second = held(kept)
    store_command(kept, "prune")
    for member in (first, second):
        path = kept.path(member.config)
        path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    with kept.lock(first.config):
        assert store_command(kept, "prune", "--dry-run") == 0
        would = capsys.readouterr().out
        assert would.splitlines()[-1].startswith("would remove 1 files, ")
        assert store_command(kept, "prune") == 0
        said = capsys.readouterr().out
    assert said == would.replace("would remove", "removed")
    assert f"removed {kept.path(second.config).relative_to(kept.root)} (damaged: " in said
    assert kept.path(first.config).exists() and not kept.path(second.config).exists()
    assert store_command(kept, "prune") == 0 and store_command(kept, "verify") == 0


def test_what_was_mended_in_the_meantime_is_not_pruned(kept, monkeypatch):
    path = kept.path(held(kept)[0].config)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    remove = housekeeping._try_lock

    def mend(root, key, dry_run):
        path.write_bytes(whole)
        return remove(root, key, dry_run)
    monkeypatch.setattr(housekeeping, "_try_lock", mend)
    assert path not in [removed for removed, *_ in housekeeping.prune(kept.root)]
    assert path.read_bytes() == whole


def test_a_store_that_can_only_be_read_is_not_pruned(kept, monkeypatch, capsys):
    before = files(kept)
    with monkeypatch.context() as patch:
        refuse_below(kept.root, errno.EROFS, patch)
        assert store_command(kept, "prune") == 2
    assert (
        f"starlight: store: the folder {kept.root} cannot be written to: the disk can only be read"
        in capsys.readouterr().err
    )
    assert files(kept) == before


def test_what_is_in_use_is_not_pruned(kept):
    first, _ = held(kept)
    with kept.lock(first.config):
        store_command(kept, "prune", "--older-than", "0")
        left = files(kept)
    assert sum(kept.path(first.config).stem in name for name in left) == 5, (
        "entry, half, damaged, checkpoint, lock"
    )
    assert sum(name.endswith(".safetensors") for name in left) == 1


def test_entries_are_pruned_by_age_and_profile(kept, capsys):
    entries = lambda: sum(name.endswith(".safetensors") for name in files(kept))
    store_command(kept, "prune", "--older-than", "1")
    store_command(kept, "prune", "--all-but", "digits", "smoke")
    assert entries() == 3
    for path in kept.root.glob("*/*.safetensors"):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    store_command(kept, "prune", "--older-than", "1", "--all-but", "smoke")
    assert entries() == 3
    os.utime(kept.path(held(kept)[0].config))
    store_command(kept, "prune", "--older-than", "1", "--all-but", "digits")
    assert entries() == 1 and "older than 1 days and not of digits" in capsys.readouterr().out
    store_command(kept, "prune", "--all-but", "digits")
    assert entries() == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["ls", "--store", "nowhere"], "store: there is no folder nowhere"),
        (["verify", "--store", "nowhere"], "store: there is no folder nowhere"),
        (["prune", "--store", "nowhere"], "store: there is no folder nowhere"),
        (
            ["prune", "--older-than", "-1"],
            "older-than: a number of days from 0 up is needed, not -1",
        ),
        (["prune", "--older-than", "nan"], "older-than: a number of days"),
        (["export", "."], "export: . is a folder; the name of a tar file is needed"),
        (["prune", "--all-but", "smok"], "profile: 'smok' is not known; did you mean 'smoke'"),
    ],
)
def test_wrong_words_for_the_store_are_one_clear_error(
    words, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    assert (
        cli.main(["store", *words, *([] if "--store" in words else ["--store", "store"])])
        == 2
    )
    assert message in capsys.readouterr().err


def folders_command(tmp_path, **folders):
    folders = dict(out="report", store="store") | folders
    return cli.main(
        [
            *FIG3,
            *(
                word
                for name, folder in folders.items()
                for word in (f"--{name}", str(tmp_path / folder))
            ),
        ]
    )


@pytest.mark.parametrize("argument", ["out", "store"])
@pytest.mark.parametrize(
    "folder, words",
    [
        ("file", "a file is where a folder should be"),
        ("file/deep/er", "a file is where a folder should be"),
        ("/proc/nothing/there", "nothing can be made there"),
        ("/dev/full", "a file is where a folder should be"),
    ],
)
def test_what_is_no_folder_is_told_and_nothing_is_made(argument, folder, words, tmp_path, capsys):
    (tmp_path / "file").write_text("as it was")
    assert folders_command(tmp_path, **{argument: folder}) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"starlight: {argument}: the folder {(tmp_path / folder).resolve()} "
        f"cannot be written to: {words}"
    )
    assert said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    assert (tmp_path / "file").read_text() == "as it was"


@pytest.mark.parametrize("argument, path, words", [
    ("out", "report/data", "is a file; a run needs a folder there"),
    ("out", "report/notebooks", "is a file; a run needs a folder there"),
    ("out", "report/index.html/x", "is a folder; a run writes a file there"),
    ("out", "report/evidence.json/x", "is a folder; a run writes a file there"),
    ("store", "store/locks", "is a file; a run needs a folder there"),
    ("store", "store/0a", "is a file; a run needs a folder there")])
def test_a_file_where_a_folder_is_wanted_is_found_before_anything_is_trained(
    argument, path, words, tmp_path, capsys
):
    write_atomic(tmp_path / path, "as it was")
    assert folders_command(tmp_path, out="report", store="store") == 2
    named = tmp_path / path.removesuffix("/x")
    assert capsys.readouterr().err == f"starlight: {argument}: {named} {words}\n"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / path]


def test_a_dry_run_downloads_nothing(small_profile, tmp_path, capsys):
    profile = small_profile({'dataset = "digits"': 'dataset = "cifar10-500-100"'})
    (tmp_path / "data").mkdir()
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "report")]
    assert cli.main(["reproduce", "--profile", profile, "--dry-run", *words]) == 2
    folder = (tmp_path / "data").resolve()
    assert capsys.readouterr().err == (
        f"starlight: dry-run: the files of 'cifar10' are not in {folder}, and a dry run downloads "
        "nothing; a run does\n")
    assert not list((tmp_path / "data").iterdir())


def refuse_below(folder, code, monkeypatch):
    "From now on the disk refuses to write below the folder."
    real = os.open

    def refuse(path, flags, *rest, **options):
        if str(path).startswith(str(folder)) and flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *rest, **options)
    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("argument", ["out", "store"])
@pytest.mark.parametrize(
    "code, words",
    [
        (errno.EROFS, "the disk can only be read"),
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission is denied"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.ENAMETOOLONG, "the system refuses"),
    ],
)
def test_a_disk_that_refuses_is_told_before_anything_runs(
    argument, code, words, tmp_path, capsys, monkeypatch
):
    (tmp_path / "there").mkdir()
    refuse_below(tmp_path / "there", code, monkeypatch)
    assert folders_command(tmp_path, **{argument: "there"}) == 2
    assert (
        f"starlight: {argument}: the folder {tmp_path}/there cannot be written to: {words}"
        in capsys.readouterr().err
    )
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="a superuser may write anywhere")
@pytest.mark.parametrize("argument", ["out", "store"])
def test_a_folder_without_permission_is_told(argument, tmp_path, capsys):
    (tmp_path / "there").mkdir(mode=0o555)
    assert folders_command(tmp_path, **{argument: "there/deep"}) == 2
    assert (
        f"{argument}: the folder {tmp_path}/there/deep cannot be written to: permission is denied"
        in capsys.readouterr().err
    )


def test_a_store_with_entries_may_be_one_that_can_only_be_read(kept, tmp_path, monkeypatch):
    refuse_below(kept.root, errno.EROFS, monkeypatch)
    runner._check_folders(tmp_path / "report", kept.root, None)
    with pytest.raises(
        OSError, match="out: the folder .*store cannot be written to: the disk can only be read"
    ):
        runner._check_folders(kept.root, kept.root, None)


def test_a_data_folder_that_is_not_there_is_told(tmp_path, capsys):
    assert folders_command(tmp_path, data="nowhere") == 2
    assert capsys.readouterr().err == f"starlight: data: there is no folder {tmp_path}/nowhere\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("STARLIGHT_CHECKPOINT", "often", "a number of seconds from 0 up is needed, not 'often'"),
        ("STARLIGHT_CHECKPOINT", "-1", "a number of seconds"),
        ("STARLIGHT_CHECKPOINT", "nan", "a number of seconds"),
        (
            "STARLIGHT_SINCE",
            "yesterday",
            "a number of seconds from 0 up is needed, not 'yesterday'",
        ),
        ("STARLIGHT_JOBS", "two", "a whole number of at least 1 and at most 10,000 is needed, not 'two'"),
        ("STARLIGHT_JOBS", "0", "a whole number of at least 1"),
        ("STARLIGHT_JOBS", "1.5", "a whole number of at least 1"),
        ("STARLIGHT_JOBS", "\u00b2", "a whole number of at least 1"),
    ],
)
def test_a_wrong_environment_is_told_before_anything_runs(
    variable, value, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(variable, value)
    assert folders_command(tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"starlight: {variable}: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "recipe, star, message",
    [
        ("lr = -0.1", "", "recipe.lr: a number of at least 0 is needed, not -0.1"),
        ("epohcs = 3", "", "recipe: 'epohcs' is not known; did you mean 'epochs'"),
        ("epochs = 0", "", "recipe.epochs: at least 1 is needed, not 0"),
        ("epochs = -3", "", "recipe.epochs: a whole number of at least 0 is needed, not -3"),
        (
            "batch_size = -5",
            "",
            "recipe.batch_size: a whole number of at least 1 is needed, not -5",
        ),
        ("lr = nan", "", "recipe.lr: a finite number is needed, not nan"),
        ("epochs = 3", "star = { epochs = 0 }", "star.epochs: at least 1 is needed, not 0"),
        ("epochs = 3", "star = { lr = -1 }", "star.lr: a number of at least 0 is needed, not -1"),
        (
            "epochs = 3",
            "star = { epohcs = 1 }",
            "star: 'epohcs' is not known; did you mean 'epochs'",
        ),
        ("epochs = 3", "label = 3", "label: text is needed, not 3"),
        ("epochs = 3", "paper = 3", "paper: text is needed, not 3"),
        (
            "epochs = 3",
            'paper = "MNIST, MLP 1x64"',
            "paper: 'MNIST, MLP 1x64' is not known; did you mean 'MNIST, MLP-1x64'",
        ),
    ],
)
def test_a_wrong_recipe_in_a_profile_is_told_with_its_setting(
    recipe, star, message, small_profile, tmp_path, capsys
):
    profile = small_profile({"epochs = 1, batch_size = 200, lr = 0.05 }": f"{recipe} }}\n{star}"})
    assert (
        cli.main(
            [
                "reproduce", "--profile", profile, "--out", str(tmp_path / "report"), "--store",
                str(tmp_path / "store"),
            ]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith(f"starlight: settings.small.{message}")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


ARCHITECTURE = 'architecture = "mlp"'
MODEL = "model = { depth = 1, width = 4 }"
DEEP = "[" * 400 + "]" * 400


@pytest.mark.parametrize("old, new, message", [
    (ARCHITECTURE, 'architecture = ["mlp"]', "architecture: text is needed, not ['mlp']"),
    (ARCHITECTURE, "architecture = { a = 1 }", "architecture: text is needed, not {'a': 1}"),
    (MODEL, "model = { num_classes = 3 }", "model: 'num_classes' is not accepted"),
    (MODEL, 'model = { depth = "deep" }', "model: architecture 'mlp' builds no network with"),
    (MODEL, "model = { depth = 5_000_000 }", "model.depth: at most 1,000, not 5000000"),
    (MODEL, "model = { width = 1_000_000_000 }", "model.width: at most 1,000,000"),
    (MODEL, "model = { width = 1_000_000 }", "model: its weights have 8,000 GB"),
    (MODEL, "model = { width = 1979-05-27 }", "model.width: text, a number, true or false is"),
    ("sources = 3", "sources = 150_000", "sources: at most 10,000, not 150000"),
    ("sources = 3", "sources = 2.0", "sources: a whole number of at least 1 is needed, not 2.0"),
    ("heldouts = 2\n[exp", "heldouts = true\n[exp", "heldouts: a whole number of at least 1"),
    ('dataset = "digits"', "dataset = 3", "dataset: 3 is not known"),
    (MODEL, f"{MODEL}\nlabel = {DEEP}", "label: lists and tables are nested too deep"),
    *((MODEL, f"{MODEL}\nlabel = {json.dumps(label)}", f"label: plain text is needed; {shown(label)} {why}")
      for label, why in [
          ("", "is empty"), (" a", "is empty, or has spaces"), ("NA", "means a missing value"),
          ("None", "means a missing value"), ("$x_{$", "contains $"), ("a|b", "contains |"),
          ("<i>a</i>", "contains <"), ("[a](b)", "contains ]("), ("=1+1", "begins with ="),
          ("@a", "begins with @"), ("a\nb", "has characters that cannot be printed"),
          ("x" * 90, "has more")]),
])
def test_a_wrong_setting_is_told_before_anything_runs(
    old, new, message, small_profile, tmp_path, capsys
):
    words = ["--out", str(tmp_path / "report"), "--store", str(tmp_path / "store")]
    assert cli.main(["reproduce", "--profile", small_profile({old: new}), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"starlight: settings.small.{message}") and said.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize("line, message", [
    ("minutes = inf", "minutes: a finite number is needed, not inf"),
    ("minutes = -1", "minutes: a number of at least 0 is needed, not -1"),
    (f'title = "{"x" * 300}"', "title: plain text is needed; 'xxx"),
    (f"device = {DEEP}", "device: lists and tables are nested too deep"),
])
def test_a_wrong_line_of_a_profile_is_told(line, message, small_profile, tmp_path, capsys):
    profile = small_profile({'title = "mine"': line})
    assert cli.main(["reproduce", "--profile", profile]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"starlight: profile mine, {message}") and len(said) < 300


def test_a_profile_that_is_nested_too_deep_or_has_no_name_is_told(tmp_path, capsys):
    deep, nameless = tmp_path / "deep.toml", tmp_path / "...toml"
    deep.write_text(f"a = {'[' * 5000}{']' * 5000}")
    nameless.write_text("")
    for path, message in ((deep, "deep.toml has lists or tables that are nested too deep"),
                          (nameless, "a file name such as mine.toml is needed, not '...toml'")):
        assert cli.main(["reproduce", "--profile", str(path)]) == 2
        assert capsys.readouterr().err == f"starlight: profile: {message}\n"


@pytest.mark.parametrize("parameter, message", [
    ("points=1000000000", "points: at most 1,000, not 1000000000"),
    ("stars=150000", "stars: at most 10,000, not 150000"),
    ("stars=2.0", "parameter stars: a value of type int is needed, not 2.0")])
def test_counts_that_nobody_can_mean_are_refused(parameter, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*FIG3, "-p", parameter]) == 2
    assert capsys.readouterr().err == f"starlight: {message}\n"


def test_a_profile_that_is_no_text_is_told(tmp_path, capsys):
    profile = tmp_path / "mine.toml"
    profile.write_bytes(b"\xff\xfe")
    assert cli.main(["reproduce", "--profile", str(profile)]) == 2
    assert "profile: mine.toml is not valid TOML" in capsys.readouterr().err
    profile.unlink()
    profile.mkdir()
    assert cli.main(["reproduce", "--profile", str(profile)]) == 2
    assert "profile: there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("words, first", [
    (["--help"], "usage: starlight [-h]"), (["list"], "experiments"),
    (["reproduce", "--help"], "usage: starlight reproduce [-h]"),
    (["store", "prune", "--help"], "usage: starlight store prune [-h]")])
def test_help_and_list_answer_without_torch(words, first):
    code = f"""
import sys
from starlight_nb.paper.cli import main
try:
    status = main({words!r})
except SystemExit as end:
    status = end.code
assert not {{'torch', 'papermill', 'pandas'}} & set(sys.modules)
sys.exit(status)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(first)


def test_list_names_every_experiment_with_its_profiles_and_minutes(capsys):
    import tomllib
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    experiments = said[:said.index("\nprofiles")].splitlines()
    profiles = said[said.index("\nprofiles"):]
    contents = {
        name: tomllib.loads((ROOT / f"nbs/experiments/profiles/{name}.toml").read_text())
        for name in profile_names()
    }
    named = {
        line.split(":")[0].strip(): below.strip()
        for line, below in zip(experiments, experiments[1:])
        if line.startswith("  ") and line[2] != " "
    }
    assert list(named) == experiment_names()
    for name, below in named.items():
        tables = {profile: contents.get(content.get("like"), content).get("experiments")
                  for profile, content in contents.items()}
        assert below == ", ".join(profile for profile, own in tables.items() if name in own)
    rows = {row.split()[0]: row for row in profiles.splitlines()[2:]}
    for name, content in contents.items():
        minutes = content.get("minutes")
        assert (f" {minutes:g} min " if minutes else " not run yet ") in rows[name]


def test_the_doctor_names_what_is_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STARLIGHT_DATA", str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STARLIGHT_STORE", str(tmp_path / "file" / "store"))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "ok   torch imports" in said and "ok   kernel\n" in said
    assert "WRONG data folder: STARLIGHT_DATA names" in said and "WRONG store folder:" in said
    assert f"data sets in {tmp_path / 'nowhere'}: digits, digit-pairs\n" in said


@pytest.mark.parametrize("trial, said", [
    ("print('AVX9')", "ok   processor: PyTorch uses AVX9, and its thin convolutions are sound\n"),
    (
        "import os; print('AVX9', flush=True); os.abort()",
        "note processor: PyTorch uses AVX9, and in channels_last its gradient",
    ),
    ("import no_such_module", "note processor: thin convolutions could not be tried: ModuleNotFoundError")])
def test_the_doctor_tries_the_processor_and_does_not_fail_of_it(trial, said, monkeypatch, capsys):
    monkeypatch.setattr(doctor_module, "doctor", lambda: {"torchvision imports": None})
    monkeypatch.setattr(doctor_module, "THIN_CONVOLUTION", trial)
    assert cli.main(["doctor"]) == 0
    assert said in capsys.readouterr().out


def test_executed_notebooks_hold_no_trace_of_the_machine(smoke_report):
    for path in (smoke_report / "report").rglob("*"):
        if (
            path.suffix in (".ipynb", ".json", ".csv", ".md", ".html")
            and path.name != "evidence.json"
        ):
            text = path.read_text()
            for trace in (str(smoke_report), str(ROOT), str(Path.home()), " at 0x"):
                assert trace not in text, f"{path.name}: {trace}"


def test_data_keep_the_contract(smoke_report):
    import pandas as pd
    from starlight_nb.paper.study import COLUMNS
    extra = {
        "table1_barriers": ["matching"],
        "fig2_width_depth": ["series"],
        "fig4_bma": ["method", "draws", "bin"],
        "table2_fusion": ["method", "first"],
        "appendix_matching": ["matching"],
        "appendix_partial": ["matching", "spec"],
        "appendix_relationship": ["series"],
        "appendix_rematching": ["rematch"],
        "appendix_warmup": ["warmup"],
        "fig0_plane": ["matching", "ends", "x", "y"],
        "appendix_test_metrics": ["matching"],
        "appendix_points": ["points"],
        "appendix_t_sampling": ["t_sampling"],
        "beyond_kernel": ["candidate", "averaged"],
        "beyond_better_star": ["way", "half", "matching"],
        "beyond_transformer": ["matching", "star_matching", "repair"],
    }
    for name in experiment_names():
        data = pd.read_csv(smoke_report / f"report/data/{name}.csv")
        assert list(data.columns) == COLUMNS + extra.get(name, [])
        assert set(data.pair.dropna()) <= {
            "regular-regular", "star-source", "star-heldout", "star-star", "single",
        }
        # shifted test data are test-NAME
        assert set(data.split.str.partition("-")[0]) == {"train", "test"}
        assert not data.duplicated([c for c in data.columns if c != "value"]).any()
