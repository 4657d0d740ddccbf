"""Kernels: forks of one process, with this interpreter's packages, that leave nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError

from starlight_nb.paper import kernels
from starlight_nb.paper.execution import _execute_notebook
from starlight_nb.paper.kernels import ThisPython

forks = pytest.mark.skipif(not kernels.CAN_FORK, reason="kernels are not forked here")


def execute(*cells):
    "Execute cells in a kernel; what the last one prints."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    last = _execute_notebook(notebook).cells[-1]
    return "".join(output.get("text", "") for output in last.outputs).strip()


def ends(pid, seconds=20):
    "Whether a process ends within so many seconds."
    deadline = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline: time.sleep(0.05)
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("forked", [pytest.param(True, marks=forks), False])
def test_a_kernel_is_this_python_with_this_environment(forked, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "CAN_FORK", forked)
    monkeypatch.setenv("STARLIGHT_TEST", "here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starlight_nb.py").write_text("raise ImportError('the wrong one')")
    executable, name, folder = execute(
        "import os, sys, starlight_nb",
        "print(sys.executable, os.environ['STARLIGHT_TEST'], os.getcwd())").split()
    assert (executable, name, folder) == (sys.executable, "here", str(tmp_path))


FIGURES = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.plot([1, 2])
figure
"""


@forks
def test_a_fork_shows_what_any_kernel_shows(monkeypatch):
    "Also figures, which Matplotlib's backend adds to a kernel's formats when it is imported."
    wide = "import pandas as pd\npd.DataFrame({f'column {n}': ['a' * 20] for n in range(9)})"
    cells = ["import starlight_nb.plots", FIGURES, "plt.subplots()\nNone", "print(1)\n2", wide]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    shown = []
    for forked in (True, False):
        monkeypatch.setattr(kernels, "CAN_FORK", forked)
        shown.append([cell.outputs for cell in _execute_notebook(notebook).cells])
    assert shown[0] == shown[1] and "image/png" in shown[0][1][0].data


@forks
def test_kernels_share_their_parent_and_nothing_else():
    tell = "import os; print(os.getppid(), os.getpgid(0) == os.getpid(), len(os.listdir('/proc/self/fd')))"
    first, second = (execute("x = 1", tell).split() for _ in range(2))
    assert first == second and first[1] == "True"
    assert execute("print('x' in globals())") == "False"


@forks
def test_a_kernel_has_all_that_a_process_needs():
    "Child processes are waited for, input is empty, and what is computed uses one thread."
    said = execute(
        "import os, subprocess, sys, torch",
        "ended = subprocess.run([sys.executable, '-c', 'raise SystemExit(3)']).returncode",
        "print(ended, os.read(0, 1), torch.get_num_threads())")
    assert said == "3 b'' 1"


@forks
def test_a_kernel_that_dies_is_an_error_and_the_next_one_works():
    with pytest.raises(DeadKernelError): execute("import os; os.kill(os.getpid(), 9)")
    assert execute("print(1)") == "1"


@forks
def test_a_kernel_that_has_died_can_be_shut_down():
    async def start_and_lose():
        manager = ThisPython()
        await manager.start_kernel()
        os.kill(manager.provisioner.pid, signal.SIGKILL)
        assert ends(manager.provisioner.pid)
        for end in (manager.provisioner.terminate, manager.provisioner.kill): await end()
        await manager.shutdown_kernel(now=True)
        assert not await manager.is_alive()
    asyncio.run(start_and_lose())


@forks
def test_a_server_that_has_died_is_started_again():
    execute("1")
    server = kernels._server()
    server.kill()
    server.wait()
    assert execute("print(2)") == "2" and kernels._server().pid != server.pid


@forks
def test_kernels_that_have_been_ended_leave_nothing_and_none_starts(tmp_path):
    "Not even what a kernel has started; the thread that waits for it goes on at once."
    file = tmp_path / "pids"
    code = (f"import os, subprocess, time\nchild = subprocess.Popen(['sleep', '99'])\n"
            f"open({str(file)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} .')\ntime.sleep(99)")
    errors = []

    def wait_for_it():
        try: execute(code)
        except Exception as error: errors.append(error)
    thread = threading.Thread(target=wait_for_it)
    thread.start()
    while not file.exists() or not file.read_text().endswith("."): time.sleep(0.05)
    server = kernels._server()
    kernels.end_kernels()
    *pids, _ = file.read_text().split()
    thread.join(10)
    assert not thread.is_alive() and isinstance(errors[0], DeadKernelError)
    assert all(ends(pid) for pid in [*pids, server.pid])
    with pytest.raises(RuntimeError, match="kernels have been ended"): execute("1")
    kernels.start_kernels()
    assert execute("print(3)") == "3"


@forks
def test_a_server_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(kernels, "_search_path", lambda: "/no/such/folder")
    monkeypatch.setattr(kernels.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="that starts kernels ended with status 1"): execute("1")


MAIN = """
import asyncio
from starlight_nb.paper.kernels import ThisPython, _server
async def main():
    manager = ThisPython()
    await manager.start_kernel()
    print(manager.provisioner.pid, _server().pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@forks
def test_kernel_and_server_end_when_their_process_is_killed():
    process = subprocess.Popen([sys.executable, "-c", MAIN], stdout=subprocess.PIPE, text=True)
    pids = process.stdout.readline().split()
    process.kill()
    process.wait()
    assert len(pids) == 2 and all(map(ends, pids))
