"""Runs that are killed, in the middle of a write too, that share a store, or whose disk fills up:
the report is the same bytes, or as it was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, finish, report_bytes, starlight

from starlight_nb.paper import cli

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="the processes of a run are found through /proc"
)
ENTRY, CHECKPOINT, REPORT = r"/\.\w+\.safetensors\.", r"/\.\w+\.checkpoint\.", r"/report/\.staging"
# lists what there is, so that of a part of the experiments it is another
GALLERY = {"README.md", "index.html"}


def start(folder, *words, notes, store=None, **environment):
    "Start `starlight reproduce`; its processes take notes, see `faults/sitecustomize.py`."
    path = os.pathsep.join(filter(None, [str(ROOT / "tests/faults"), os.environ.get("PYTHONPATH")]))
    return starlight(
        "reproduce",
        "--profile",
        "smoke",
        *words,
        folder=folder,
        store=store,
        PYTHONPATH=path,
        FAULT_NOTES=str(notes),
        STARLIGHT_CHECKPOINT="0",
        **environment,
    )


def processes(notes):
    """The processes of a run, in whichever group they are: they have their notes in their
    environment."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"FAULT_NOTES={notes}".encode() in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


def kill_when(process, notes, moment):
    "Kill every process of the run when the moment has come; whether it was still running."
    while process.poll() is None and not moment():
        time.sleep(0.01)
    running = process.poll() is None
    while numbers := list(processes(notes)):
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    process.communicate(timeout=60)
    return running


def check_now(folder, smoke_report, *words):
    "After a kill: whatever a reader finds, in the store or in the report, is whole."
    if (folder / "store").exists():
        assert cli.main(["store", "verify", "--store", str(folder / "store")]) == 0
    whole, found = report_bytes(smoke_report), report_bytes(folder)
    for name, contents in found.items():
        # what is on its way into the evidence, and what failed
        if name.startswith(("made_with/", "measured/", "failed/")):
            json.loads(contents)
        elif not name.startswith(".") and "/." not in name and not (words and name in GALLERY):
            assert contents == whole[name], f"{name} is not whole"


def check_end(folder, smoke_report, *words):
    """After the same command has ended: the report is the same bytes as if nobody had killed
    anything, and there are no leftovers."""
    before = report_bytes(folder)
    status, out, error = finish(start(folder, *words, notes=folder))
    assert status == 0, out + error
    whole, found = report_bytes(smoke_report), report_bytes(folder)
    if words:
        assert found.keys() < whole.keys() and len(found) > 10
    else:
        assert found.keys() == whole.keys()
    assert {name for name in found if found[name] != whole.get(name)} == (
        GALLERY if words else set()
    )
    assert all(before.get(name, found[name]) == found[name] for name in found), (
        "what was there was right"
    )
    assert not list(folder.glob("report/**/.*")), "no staging folder, no lock, no temporary file"
    assert cli.main(["store", "verify", "--store", str(folder / "store")]) == 0
    assert {path.suffix for path in folder.glob("store/??/*")} <= {".safetensors", ".checkpoint"}, (
        "no half of a file"
    )
    assert cli.main(["store", "prune", "--store", str(folder / "store")]) == 0
    entries = lambda store: {
        path.name: path.read_bytes() for path in store.rglob("*") if path.is_file()
    }
    left, reference = entries(folder / "store"), entries(smoke_report / "store")
    assert all(reference[name] == left[name] for name in left), (
        "entries too are the same bytes, and there is nothing else"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_at_a_random_moment_goes_on(seed, smoke_report, tmp_path, record_property):
    part = random.Random(seed).random()
    evidence = json.loads((smoke_report / "report/evidence.json").read_text())
    executed = sum(evidence["notebook_seconds"].values()) / evidence["workers"]
    took = evidence["making"]["seconds"] + executed
    running = False
    # a run that ended before the moment came, because the machine is quicker now,
    # says how long it takes
    while not running:
        folder, began = tmp_path / str(len(list(tmp_path.iterdir()))), time.monotonic()
        folder.mkdir()
        process = start(folder, notes=folder)
        running = kill_when(process, folder, lambda: time.monotonic() >= began + part * took)
        took = took if running else time.monotonic() - began
    check_now(folder, smoke_report)
    entries, checkpoints, files = (
        len(list(folder.glob(kind)))
        for kind in ("store/??/*.safetensors", "store/??/*.checkpoint", "report/*/*.*")
    )
    record_property(
        "killed",
        f"after {part * took:.0f} s of {took:.0f} s: {entries} entries, {checkpoints} checkpoints, "
        f"{files} files of the report",
    )
    check_end(folder, smoke_report)


def struck(folder, smoke_report, fault):
    "Run the first experiment until the fault strikes, and kill everything then."
    process = start(folder, "--only", "fig1", notes=folder, FAULT=fault)
    assert kill_when(process, folder, (folder / "struck").exists), "the fault strikes"
    check_now(folder, smoke_report, "--only", "fig1")


def test_a_run_killed_in_the_middle_of_a_write_goes_on(smoke_report, tmp_path):
    struck(tmp_path, smoke_report, f"half {ENTRY} 9 stop")
    assert len(list(tmp_path.glob("store/??/.*.safetensors.*.new"))) >= 1
    check_end(tmp_path, smoke_report, "--only", "fig1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "when, where, files",
    [
        ("half", CHECKPOINT, 10),
        ("whole", ENTRY, 30),
        ("whole", CHECKPOINT, 10),
        ("renamed", r"\.safetensors$", 30),
        ("renamed", r"\.checkpoint$", 10),
        ("half", REPORT, 9),
        ("whole", REPORT, 9),
        ("renamed", r"/report/[a-z]+/", 9),
        ("half", r"/report/\.README", 1),
        ("renamed", r"/report/index", 1),
    ],
)
def test_a_run_killed_at_any_step_of_a_write_goes_on(when, where, files, smoke_report, tmp_path):
    struck(
        tmp_path,
        smoke_report,
        f"{when} {where} {random.Random(when + where).randint(1, files)} stop",
    )
    check_end(tmp_path, smoke_report, "--only", "fig1")


@pytest.mark.slow
@pytest.mark.parametrize("where, number, words", [
    (ENTRY, 12, "failed while MLP 3x16: "), (CHECKPOINT, 3, "failed while MLP 3x16: "),
    (REPORT, 4, "failed in the kernel: ")])
def test_a_process_that_is_killed_alone_fails_its_experiment_and_the_next_run_goes_on(
    where, number, words, smoke_report, tmp_path
):
    "As when memory is short: of a worker that makes models, or of the kernel."
    status, _, error = finish(
        start(tmp_path, "--only", "fig1", notes=tmp_path, FAULT=f"whole {where} {number} kill")
    )
    assert (tmp_path / "struck").exists()
    assert status == 1
    assert f"fig1_source_count {words}" in error
    assert "Traceback" not in error
    check_now(tmp_path, smoke_report, "--only", "fig1")
    check_end(tmp_path, smoke_report, "--only", "fig1")


@pytest.mark.parametrize("where, number, words, left", [
    (REPORT, 5, "failed in cell ", ["report/failed/fig1_source_count.ipynb"]),
    pytest.param(ENTRY, 9, "failed while MLP 3x16: ", [], marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_fails_the_experiment_and_leaves_the_report_as_it_was(
    where, number, words, left, smoke_report, tmp_path
):
    "In a notebook, or while models are made, where no notebook is executed."
    store = smoke_report / "store" if where == REPORT else None
    status, _, error = finish(
        start(
            tmp_path,
            "--only",
            "fig1",
            notes=tmp_path,
            store=store,
            FAULT=f"half {where} {number} full",
        )
    )
    assert status == 1
    assert f"fig1_source_count {words}" in error
    assert "cannot be written to: the disk is full" in error
    assert [
        str(path.relative_to(tmp_path)) for path in tmp_path.glob("report/**/*") if path.is_file()
    ] == left
    assert not list(tmp_path.glob("store/??/.*"))


@pytest.mark.parametrize("only", [("--only", "fig1"), pytest.param((), marks=pytest.mark.slow)])
def test_two_runs_at_once_on_one_store_train_each_model_once(only, smoke_report, tmp_path):
    folders, store = [tmp_path / name for name in "ab"], tmp_path / "store"
    for folder in folders:
        folder.mkdir()
    for process in [start(folder, *only, notes=tmp_path, store=store) for folder in folders]:
        status, out, error = finish(process)
        assert status == 0, out + error
    whole, one, other = map(report_bytes, (smoke_report, *folders))
    assert one == other
    assert {name for name in whole if one.get(name, whole[name]) != whole[name]} <= GALLERY
    assert one.keys() < whole.keys() if only else one.keys() == whole.keys()
    written = Counter((tmp_path / "written").read_text().splitlines())
    assert set(written.values()) == {1}
    assert set(written) == set(map(str, store.glob("??/*.safetensors")))
    assert len(written) > 30


def made_something(folder):
    return (folder / "written").exists()


def executes_a_notebook(folder):
    return any(folder.glob("report/.staging-*/*/notebooks"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment, jobs", [
    (made_something, "2"), (executes_a_notebook, "2"),
    pytest.param(made_something, "1", marks=pytest.mark.slow),
    pytest.param(executes_a_notebook, "1", marks=pytest.mark.slow)])
def test_a_signal_stops_a_run_in_order(number, moment, jobs, smoke_report, tmp_path):
    "Sent to its whole group, as terminals and clusters do: one line, and nothing is left behind."
    store = None if moment is made_something else smoke_report / "store"
    words = ["--only", "fig3", "--jobs", jobs]
    process = start(tmp_path, *words, notes=tmp_path, store=store)
    while process.poll() is None and not moment(tmp_path): time.sleep(0.01)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error == "starlight: stopped; the same command continues from here\n"
    ended_by = time.monotonic() + 10  # loky's trackers end a moment after their parent
    while list(processes(tmp_path)) and time.monotonic() < ended_by: time.sleep(0.1)
    assert not list(processes(tmp_path))
    assert not list(tmp_path.rglob(".*")) and not list(tmp_path.glob("store/locks/*"))
    check_now(tmp_path, smoke_report, *words)
    if store is None and number == signal.SIGTERM:
        check_end(tmp_path, smoke_report, *words[:2])


def test_an_interrupt_that_a_library_loses_stops_the_run_all_the_same(tmp_path):
    "Raised in `__set_name__`, as where a library is imported, Python 3.11 turns it into an error."
    code = (
        "import os, signal, sys\n"
        "from starlight_nb.paper import cli, runner\n"
        "class Interrupted:\n"
        "    def __set_name__(self, *_): os.kill(os.getpid(), signal.SIGTERM)\n"
        "def lose(plans):\n"
        "    try: type('Any', (), dict(name=Interrupted()))\n"
        "    except (RuntimeError, KeyboardInterrupt): pass\n"
        "    return found(plans)\n"
        "found, runner.missing = runner.missing, lose\n"
        "making = runner.making_jobs\n"
        "runner.making_jobs = lambda plans, costs: [lose(plans), making(plans, costs)][1]\n"
        "sys.exit(cli.main(sys.argv[1:]))")
    words = ["reproduce", "--profile", "smoke", "--only", "fig3", "--jobs", "1"]
    found = subprocess.run(
        [sys.executable, "-c", code, *words, "--out", "report", "--store", "store"], text=True,
        capture_output=True, cwd=tmp_path, timeout=300)
    assert found.returncode == 143, found.stderr
    assert found.stderr == "starlight: stopped; the same command continues from here\n"
    assert not list(tmp_path.glob("store/*/*"))
