"""What Python imports first in every process of a run under test: kernels, workers and all.

It is there only for processes that have this folder on their path and FAULT_NOTES, a folder, in their environment.
They note there which entries of the store they write. FAULT says what is to happen to them, in five words:

    half|whole|renamed  REGEX  NUMBER  stop|kill|full

At file number NUMBER, counted over all processes, among those whose path REGEX finds, when half of it, or the whole,
is written under its temporary name, or when it has its own: the process stops, so that the test can kill the whole run
at this very moment; or it is killed by itself; or it is told that the disk is full."""
import builtins
import errno
import os
import re
import signal
import sys

NOTES, FAULT = os.environ.get("FAULT_NOTES"), os.environ.get("FAULT")


def note(file, line):
    "Append a line, and say which place it has in the file, counted in bytes."
    with open(os.path.join(NOTES, file), "a") as out:
        out.write(line)
        out.flush()
        return out.tell()


def note_entries(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".safetensors"):
        note("written", f"{arguments[1]}\n")


class Fault:
    def __init__(self, when, where, number, what):
        self.when, self.where, self.number, self.what = when, re.compile(where), int(number), what

    def __call__(self, when, path):
        "Is it this file's turn?"
        return when == self.when and bool(self.where.search(str(path))) and note("count", ".") == self.number

    def strike(self):
        note("struck", f"{os.getpid()}\n")
        if self.what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), signal.SIGKILL if self.what == "kill" else signal.SIGSTOP)


class File:
    "A file that is being written, at which the fault may strike."
    names = {}

    def __init__(self, file, path):
        self.file = file
        self.names[file.fileno()] = path

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.names.pop(self.file.fileno(), None)
        return self.file.__exit__(*error)

    def write(self, contents):
        if not fault("half", self.names[self.file.fileno()]):
            return self.file.write(contents)
        self.file.write(contents[:len(contents) // 2])
        self.file.flush()
        fault.strike()


def with_faults(plain_open, fsync, replace):
    "`open`, `os.fsync` and `os.replace` in which the fault strikes."
    def open(path, mode="r", *rest, **options):
        file = plain_open(path, mode, *rest, **options)
        return File(file, path) if mode == "wb" and str(path).endswith(".new") else file

    def whole(number):
        if fault("whole", File.names.get(number, "")):
            fault.strike()
        return fsync(number)

    def renamed(old, new, **options):
        replace(old, new, **options)
        if fault("renamed", new):
            fault.strike()
    return open, whole, renamed


if NOTES:
    sys.addaudithook(note_entries)
if NOTES and FAULT:
    fault = Fault(*FAULT.split())
    builtins.open, os.fsync, os.replace = with_faults(builtins.open, os.fsync, os.replace)
