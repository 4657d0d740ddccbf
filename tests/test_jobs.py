"""Jobs: the same results in the same order wherever they ran, errors as they were raised, and a
node that is lost in the middle."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from starlight_nb.runtime import jobs, progress as progress_module
from starlight_nb.runtime.jobs import BACKENDS, run_jobs, single_thread
from starlight_nb.runtime.progress import (
    epochs, progress, read_progress, jobs_in_progress, write_progress)
from starlight_nb.models import build, initialise
from starlight_nb.runtime.store import Store
from starlight_nb.training import Recipe, train

LOCAL = [backend for backend in BACKENDS if backend != "ray"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def later(seconds, value):
    time.sleep(seconds)
    return value


class Unwell(RuntimeError):
    "An error of a job's own."


def fails(number, message):
    if number == 1:
        raise Unwell(message)
    return number


def test_single_thread_puts_the_setting_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), single_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("backend", LOCAL)
@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_tasks(backend, count):
    assert run_jobs(later, [(0.4, "a"), (0.0, "b"), (0.1, "c")], jobs=count, backend=backend) == [
        "a",
        "b",
        "c",
    ]
    assert run_jobs(later, [], jobs=count, backend=backend) == []


@pytest.mark.parametrize("backend", LOCAL)
@pytest.mark.parametrize("count", [1, 2])
def test_the_error_of_a_job_is_raised_as_it_is(backend, count):
    with pytest.raises(Unwell) as raised:
        run_jobs(fails, [(n, "bad luck: 13") for n in range(4)], jobs=count, backend=backend)
    assert type(raised.value) is Unwell and str(raised.value) == "bad luck: 13"


def threads_inside(_):
    torch.ones(200, 200) @ torch.ones(200, 200)
    return torch.get_num_threads()


@pytest.mark.parametrize("backend", LOCAL)
def test_every_job_has_one_thread(backend):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert run_jobs(threads_inside, [(n,) for n in range(4)], jobs=2, backend=backend) == [1] * 4
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_give_the_bits_of_processes(digits, recipe, make_mlp):
    tasks = [(initialise(make_mlp, seed), digits, recipe, seed) for seed in range(4)]
    before = torch.random.get_rng_state()
    threads, processes = (
        run_jobs(train, tasks, jobs=2, backend=backend) for backend in ("threads", "processes")
    )
    alone = run_jobs(train, tasks)
    assert all(equal(a, b) and equal(a, c) for a, b, c in zip(threads, processes, alone))
    assert not equal(*threads[:2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_wrong_backend_is_one_clear_error(monkeypatch):
    with pytest.raises(
        ValueError,
        match=r"backend: 'proceses' is not known; did you mean 'processes'\? \(accepted: "
              r"processes, ray, threads\)",
    ):
        run_jobs(pow, [(2, 3)], backend="proceses")
    monkeypatch.setenv("STARLIGHT_BACKEND", "threads")
    with pytest.raises(
        ValueError, match=r"STARLIGHT_BACKEND: 'threads' is not known \(accepted: processes, ray\)"
    ):
        run_jobs(pow, [(2, 3)])
    assert run_jobs(pow, [(2, 3)], backend="threads") == [8]


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ValueError,
        match=r'backend: "ray" needs Ray, which is not installed; pip '
              r'install "starlight_nb\[ray\]"',
    ):
        run_jobs(pow, [(2, 3)], backend="ray")


def test_an_address_where_nobody_answers_is_told_soon(monkeypatch):
    pytest.importorskip("ray")
    # it takes a call and says nothing, like a server that is stuck
    with socket.create_server(("localhost", 0)) as silent:
        monkeypatch.setenv("STARLIGHT_RAY_ADDRESS", f"localhost:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(
            ConnectionError, match=r"ray-address: no Ray cluster answers at localhost:\d+"
        ):
            run_jobs(pow, [(2, 3)], backend="ray")
        assert time.monotonic() - start < 15
    for address in ("localhost:1", "ray://localhost:1"):
        with pytest.raises(
            ConnectionError, match=f"ray-address: no Ray cluster answers at {address}"
        ):
            run_jobs(pow, [(2, 3)], backend="ray", address=address)
    with pytest.raises(
        ValueError,
        match="ray-address: HOST:PORT, ray://HOST:PORT, auto or local is needed, not 'cluster'",
    ):
        run_jobs(pow, [(2, 3)], backend="ray", address="cluster")


def run_epochs(count, seconds, label="epochs"):
    for _ in epochs(range(count), label):
        time.sleep(seconds)


@pytest.mark.parametrize("backend, count", [("processes", 1), ("processes", 2), ("threads", 2)])
def test_trainings_tell_how_far_they_are(backend, count, tmp_path, monkeypatch):
    folder, seen, over = tmp_path / "progress", {}, threading.Event()
    monkeypatch.setenv("STARLIGHT_PROGRESS", str(folder))

    def look():
        while not over.wait(0.02):
            for label, (done, total) in jobs_in_progress(folder).items():
                seen.setdefault(label, set()).add((done, total))
    watcher = threading.Thread(target=look)
    watcher.start()
    run_jobs(run_epochs, [(50, 0.025), (60, 0.025)], jobs=count, label="models", backend=backend)
    over.set()
    watcher.join()
    assert seen.keys() == {"models 1", "models 2"}
    assert {total for _, total in seen["models 1"]} == {50}
    assert {total for _, total in seen["models 2"]} == {60}
    assert all(
        2 <= len(told) <= 3 and all(0 < done < 60 for done, _ in told) for told in seen.values()
    ), "twice a second at most"
    assert [p.name for p in folder.iterdir()] == ["all"]
    assert read_progress(folder / "all") == (2, 2, "models")


def test_a_folder_that_is_gone_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "REPORT_SECONDS", 0.0)
    with progress_module.report_job(tmp_path / "gone" / "0.job", "models 1"):
        run_epochs(3, 0)
    monkeypatch.setenv("STARLIGHT_PROGRESS", str(tmp_path / "progress"))
    seen = []
    for number in progress(iter(range(3)), "numbers", 3):
        seen.append(number)
        assert (tmp_path / "progress").exists() == (number == 0), "it is not made again"
        shutil.rmtree(tmp_path / "progress", ignore_errors=True)
    assert seen == [0, 1, 2] and not (tmp_path / "gone").exists()


def test_a_long_label_is_cut_off(tmp_path):
    write_progress(tmp_path / "all", 12, 345, "é" * 300)
    assert read_progress(tmp_path / "all")[:2] == (12, 345)
    write_progress(tmp_path / "all", 1, 2, "short")
    assert read_progress(tmp_path / "all") == (1, 2, "short")


SCRIPT = """
import sys
from test_jobs import run_epochs
from starlight_nb.runtime.jobs import run_jobs
run_jobs(run_epochs, [(50, 0.05), (60, 0.05)], jobs=2, label="models")
run_epochs(40, 0.05, "alone")
"""


def run_script(stderr, **environment):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )


def test_nothing_is_shown_where_nobody_looks():
    assert run_script(subprocess.PIPE).communicate(timeout=100) == (b"", b"")


def test_a_terminal_shows_the_population_and_each_training():
    import pty
    import termios
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    process = run_script(theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.communicate(timeout=100)[0] == b"" and process.returncode == 0
    shown = shown.decode()
    for text in (
        "models:   0%|", "models:  50%|", "  models 1: ", "  models 2: ", "/50 [", "/60 [",
        "alone: ",
    ):
        assert text in shown, text
    assert "it/s]" in shown and "<00:0" in shown, "the time that is left"


@pytest.fixture(scope="module")
def ray_folder():
    """Ray, if there is one, in a folder of its own that is gone afterwards, with all of its
    processes."""
    ray = pytest.importorskip("ray")
    # short: the paths of sockets have at most 107 characters
    folder = tempfile.mkdtemp(prefix="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        )
        yield folder
        ray.shutdown()
    deadline = time.monotonic() + 20
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, "Ray has left processes behind"


def processes_of(folder):
    """The processes that have this folder in their command line, or that were started by one that
    has."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if (
                folder.encode() in path.read_bytes()
                or f"RAY_TMPDIR={folder}".encode() in (path.parent / "environ").read_bytes()
            ):
                found.append((int(path.parent.name), path.read_bytes()[:80]))
    return [process for process in found if process[0] != os.getpid()]


@pytest.fixture(scope="module")
def cluster(ray_folder):
    "Two nodes with a processor core each."
    from ray.cluster_utils import Cluster

    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    cluster = Cluster()
    cluster.add_node(
        num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, _system_config=quick
    )
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    cluster.wait_for_nodes()
    yield cluster
    import ray
    ray.shutdown()
    cluster.shutdown()


def report(_):
    import ray
    time.sleep(0.5)
    return (
        ray.get_runtime_context().get_node_id(),
        {k: v for k, v in os.environ.items() if k.startswith(("STARLIGHT_", "OMP_"))},
        torch.get_num_threads(),
    )


RECIPE = Recipe(epochs=80, batch_size=100, lr=0.05)
make_network = partial(build, "mlp", depth=2, width=8)


def slow_model(seed):
    "A network of which a batch takes a millisecond longer."
    model = initialise(make_network, seed)
    model.register_forward_pre_hook(lambda *_: time.sleep(0.001))
    return model


def train_stored(folder, data, seed):
    """A model through the store, as studies have it. Whoever begins to train it, or has done so,
    leaves a file."""
    import ray
    node, store = ray.get_runtime_context().get_node_id(), Store(folder / "store", every=0.0)
    config = {"model": "slow", "seed": seed}

    def make():
        (folder / f"begun-{seed}-{node}-{time.time_ns()}").touch()
        state = train(slow_model(seed), data, RECIPE, seed, store.checkpoint(config))
        (folder / f"ended-{seed}-{node}-{time.time_ns()}").touch()
        return state
    return node, store.get_or_train(config, make)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_trains_every_model_once(
    cluster, digits, tmp_path, monkeypatch
):
    import ray
    monkeypatch.setenv("STARLIGHT_DATA", str(tmp_path))
    monkeypatch.setenv("STARLIGHT_PROGRESS", str(tmp_path / "progress"))
    with jobs.connected(cluster.address):
        mine = ray.get_runtime_context().get_node_id()
        assert run_jobs(later, [(0.4, "a"), (0.0, "b")], backend="ray") == ["a", "b"]
        assert ray.is_initialized()
        nodes, environments, threads = zip(*run_jobs(report, [(n,) for n in range(8)], backend="ray"))
        other, = set(nodes) - {mine}
        assert set(nodes) == {mine, other} and set(threads) == {1}
        for environment in environments:
            assert (
                environment.items()
                >= {
                    "STARLIGHT_DATA": str(tmp_path),
                    "OMP_NUM_THREADS": "1",
                    "STARLIGHT_BACKEND": "processes",
                }.items()
            )
        with pytest.raises(Unwell) as raised:
            run_jobs(fails, [(n, "bad luck: 13") for n in range(4)], backend="ray")
        assert type(raised.value) is Unwell
        assert str(raised.value) == "bad luck: 13"
        assert "test_jobs.py" in str(raised.value.__cause__)

        left = lambda kind: [tuple(p.name.split("-")[1:3]) for p in tmp_path.glob(f"{kind}-*")]
        gone = threading.Event()

        def lose():
            """When the other node has trained a model, and is in the middle of the next, take it
            away."""
            store = Store(tmp_path / "store")
            def in_the_middle():
                begun, ended = (
                    {seed for seed, node in left(kind) if node == other}
                    for kind in ("begun", "ended")
                )
                return ended and any(
                    store.path({"model": "slow", "seed": int(seed)})
                    .with_suffix(".checkpoint")
                    .exists()
                    for seed in begun - ended
                )

            while not in_the_middle():
                time.sleep(0.01)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            gone.set()
        threading.Thread(target=lose, daemon=True).start()
        seeds = list(range(6))
        found = run_jobs(train_stored, [(tmp_path, digits, seed) for seed in seeds], backend="ray")
    assert gone.is_set() and {node for node, _ in found} == {mine, other}
    assert sorted(seed for seed, _ in left("ended")) == [str(seed) for seed in seeds], (
        "each was trained to its end once"
    )
    twice = [seed for seed in seeds if len([s for s, _ in left("begun") if s == str(seed)]) > 1]
    assert len(twice) == 1
    assert {node for seed, node in left("begun") if seed == str(twice[0])} == {mine, other}
    assert len(list((tmp_path / "store").glob("*/*.safetensors"))) == len(seeds)
    assert not list((tmp_path / "store").glob("*/*.checkpoint"))
    with single_thread():
        for seed, (_, state) in zip(seeds, found):
            assert equal(state, train(initialise(make_network, seed), digits, RECIPE, seed))
    assert read_progress(tmp_path / "progress/all") == (6, 6, "jobs")


LONG_STARS = """[settings.small]
dataset = "digits-300-100"
architecture = "mlp"
model = { depth = 2, width = 12 }
recipe = { epochs = 2, batch_size = 50, lr = 0.05 }
star = { epochs = 400 }
sources = 3
heldouts = 2
[experiments.fig1_source_count]
settings = ["small"]
source_counts = [1, 2, 3]
stars = 2
heldouts = 2
points = 5
"""


@pytest.mark.slow
def test_measurements_are_the_same_bytes_on_a_cluster_that_loses_a_node(
    cluster, tmp_path, monkeypatch
):
    "The node is taken away while both nodes are in the middle of a star."
    from starlight_nb.paper.runner import reproduce
    monkeypatch.setenv("STARLIGHT_CHECKPOINT", "0")
    if not cluster.worker_nodes:  # another test has lost it
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        cluster.wait_for_nodes()
    node, = cluster.worker_nodes
    profile, gone = tmp_path / "mine.toml", threading.Event()
    profile.write_text(LONG_STARS)

    def make(name, **options):
        folder = tmp_path / name
        reproduce(profile, store=folder, out=tmp_path / "report", make_only=True, **options)
        return {path.name: path.read_bytes() for path in folder.glob("*/*.safetensors")}

    def lose():
        while len(list((tmp_path / "ray").glob("*/*.checkpoint"))) < 2: time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        gone.set()

    threading.Thread(target=lose, daemon=True).start()
    on_cluster = make("ray", backend="ray", ray_address=cluster.address)
    assert gone.is_set(), "the node was lost in the middle"
    assert on_cluster == make("here", jobs=1) and len(on_cluster) > 20
    assert not list((tmp_path / "ray").glob("*/*.checkpoint"))
