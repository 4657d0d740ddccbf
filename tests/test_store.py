"""The store: an entry is complete and right, or it is not there."""
import errno
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import tarfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from safetensors.torch import save

from starlight_nb.paper import cli
from starlight_nb.runtime import files
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.store import config_key, read_about, state_digest
from starlight_nb.runtime.store import Store

CONFIG = {"kind": "test", "seed": 1}


def some_state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(30, 7, generator=generator),
        "b": torch.randn(7, generator=generator).double(),
        "n": torch.tensor(3),
    }


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.put(CONFIG, some_state())
    return store


def test_what_was_put_comes_back(store):
    found = store.get(CONFIG)
    assert list(found) == ["w", "b", "n"] and state_digest(found) == state_digest(some_state())
    assert all(
        found[k].dtype == v.dtype and found[k].shape == v.shape for k, v in some_state().items()
    )


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_truncated_file_is_set_aside_and_made_again(store, keep):
    path = store.path(CONFIG)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.warns(UserWarning, match="is damaged"):
        again = store.get_or_train(CONFIG, some_state)
    assert state_digest(again) == state_digest(some_state()) and path.read_bytes() == whole
    assert path.with_name(f"{path.name}.damaged").exists()


def test_no_turned_bit_ever_gives_other_numbers(store):
    "Wherever a bit is turned, the store notices or gives the right numbers."
    path, noticed = store.path(CONFIG), 0
    whole, positions = path.read_bytes(), range(0, path.stat().st_size, 53)
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1:])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.get(CONFIG)
        if found is None:
            assert "is damaged" in str(said[0].message)
            noticed += 1
        else:
            assert state_digest(found) == state_digest(some_state())
    assert noticed > 0.7 * len(positions)


def test_a_file_under_another_s_name_is_not_believed(store):
    other = {"kind": "test", "seed": 2}
    store.path(other).parent.mkdir(exist_ok=True)
    store.path(other).write_bytes(store.path(CONFIG).read_bytes())
    with pytest.warns(UserWarning, match="it holds another configuration"):
        assert store.get(other) is None


def test_a_loop_of_links_is_set_aside_and_made_again(store):
    path = store.path(CONFIG)
    path.unlink()
    path.symlink_to(path.name)
    assert CONFIG not in store
    with pytest.warns(UserWarning, match="is damaged .it is a loop of symbolic links"):
        again = store.get_or_train(CONFIG, some_state)
    assert state_digest(again) == state_digest(some_state()) and not path.is_symlink()
    assert path.with_name(f"{path.name}.damaged").is_symlink()


def test_a_failure_while_making_leaves_nothing(store):
    other = {"kind": "test", "seed": 2}
    with pytest.raises(RuntimeError, match="boom"):
        store.get_or_train(other, lambda: (_ for _ in ()).throw(RuntimeError("boom")))
    assert other not in store and not list(store.root.rglob("*.new"))
    assert store.get_or_train(other, some_state) and other in store


def test_a_leftover_of_a_killed_writer_is_not_read(store):
    path = store.path(CONFIG)
    path.with_name(f".{path.name}.123.new").write_bytes(b"half")
    assert len(list(store.root.glob("*/*.safetensors"))) == 1 and store.get(CONFIG) is not None


def _make_slowly(root, calls):
    def make():
        with open(calls, "a") as out:
            out.write("made\n")
        time.sleep(1.0)
        return some_state()
    Store(root).get_or_train({"kind": "slow"}, make)


def _make_slowly_without_flock(root, calls):
    "The same on a file system that has no flock."
    _take_flock_away()
    _make_slowly(root, calls)


def _take_flock_away(put=setattr):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    put(fcntl, "flock", flock)


@pytest.mark.parametrize("make", [_make_slowly, _make_slowly_without_flock])
def test_two_processes_make_an_entry_once(tmp_path, make):
    context, calls = multiprocessing.get_context("spawn"), tmp_path / "calls"
    workers = [context.Process(target=make, args=(tmp_path / "store", calls)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert calls.read_text() == "made\n" and not list(tmp_path.glob("store/locks/*.lease"))


@pytest.mark.parametrize("make", [_make_slowly, _make_slowly_without_flock])
def test_a_dead_holder_of_a_lock_does_not_block(tmp_path, make, monkeypatch):
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=make, args=(tmp_path / "store", tmp_path / "calls"))
    worker.start()
    while not (tmp_path / "calls").exists():
        time.sleep(0.05)
    worker.kill()
    worker.join()
    if make is _make_slowly_without_flock:
        assert list(tmp_path.glob("store/locks/*.lease"))
        _take_flock_away(monkeypatch.setattr)
    assert Store(tmp_path / "store").get_or_train({"kind": "slow"}, some_state)


@pytest.fixture
def leases(monkeypatch):
    "A file system without flock, and leases that run out after 0.6 s."
    monkeypatch.setattr(files, "LEASE_SECONDS", 0.6)
    _take_flock_away(monkeypatch.setattr)


def left_on_another_machine(store, seconds):
    "The lease of a process on another machine, which has not touched it for so many seconds."
    with store.lock(CONFIG):
        lease, = store.root.glob("locks/*.lease")
        machine, rest = lease.read_text().split(" ", 1)
    lease.write_text(f"another-{machine} {rest}")
    os.utime(lease, (time.time() - seconds,) * 2)
    return lease


def test_a_lease_of_another_machine_runs_out(tmp_path, leases):
    "Its holder is not known to be dead, but does not touch it."
    store = Store(tmp_path)
    lease = left_on_another_machine(store, 0)
    began = time.monotonic()
    assert store.get_or_train(CONFIG, some_state)
    assert 0.5 < time.monotonic() - began < 10 and not lease.exists()


@pytest.mark.parametrize("seconds, had", [(100, True), (0, False)])
def test_who_does_not_wait_knows_at_once_whether_a_lease_is_left_behind(
    tmp_path, monkeypatch, seconds, had
):
    """The disk's clock tells, so that a run whose report was begun on a machine that died need not
    wait for anything."""
    _take_flock_away(monkeypatch.setattr)
    monkeypatch.setattr(files, "LEASE_SECONDS", 60.0)
    store = Store(tmp_path)
    lease = left_on_another_machine(store, seconds)
    if had:
        with files.lock(store.root / "locks" / config_key(CONFIG), timeout=0):
            assert lease.exists()
    else:
        with pytest.raises(Timeout):
            files.lock(store.root / "locks" / config_key(CONFIG), timeout=0).__enter__()
        assert lease.read_text().startswith("another-")


def test_a_slow_holder_keeps_its_lease(tmp_path, leases, monkeypatch):
    "Even when the network fails for a moment."
    utime, failures = os.utime, iter([OSError(errno.EIO, "the network")])

    def fail_once(*arguments):
        for error in failures:
            raise error
        return utime(*arguments)
    monkeypatch.setattr(os, "utime", fail_once)
    store = Store(tmp_path)
    with store.lock(CONFIG):
        with pytest.raises(Timeout):
            files.lock(store.root / "locks" / config_key(CONFIG), timeout=2).__enter__()
        assert len(list(tmp_path.glob("locks/*.lease"))) == 1
    assert not list(tmp_path.glob("locks/*.lease*")) and next(failures, None) is None


def _make_and_stop(root, calls):
    """Stop in the middle of a training, as on a machine that goes to sleep, and go on when somebody
    says so."""
    _take_flock_away()
    files.LEASE_SECONDS = 0.6

    def make():
        calls.write_text("made\n")
        os.kill(os.getpid(), signal.SIGSTOP)
        return some_state()
    Store(root).get_or_train(CONFIG, make)


def test_a_holder_that_was_stopped_does_no_harm_when_it_goes_on(tmp_path, leases):
    "Its lease is another's by then, who is not disturbed; both write the same."
    store = Store(tmp_path / "store")
    worker = multiprocessing.get_context("spawn").Process(
        target=_make_and_stop, args=(tmp_path / "store", tmp_path / "calls")
    )
    worker.start()
    while not (tmp_path / "calls").exists():
        time.sleep(0.05)
    with store.lock(CONFIG):
        mine, = store.root.glob("locks/*.lease")
        before = mine.read_text()
        os.kill(worker.pid, signal.SIGCONT)
        worker.join(60)
        assert worker.exitcode == 0 and mine.read_text() == before
    assert state_digest(store.get(CONFIG)) == state_digest(some_state())
    assert not list(store.root.glob("locks/*.lease*"))


def test_of_many_who_take_over_one_has_the_lease(tmp_path, leases, monkeypatch):
    "And a process that died while it took over is in nobody's way."
    monkeypatch.setattr(files, "POLL_SECONDS", 0.001)
    path, inside, most, done = tmp_path / "lock", [], [], []
    ended = multiprocessing.get_context("spawn").Process(target=int)
    ended.start()
    ended.join()
    holder = f"{files._machine_id()} {ended.pid} token"
    (tmp_path / "lock.lease").write_text(holder)
    (tmp_path / "lock.lease.gate").write_text(holder)

    def take(number):
        with files.lock(path):
            inside.append(number)
            time.sleep(0.01)
            most.append(len(inside))
            inside.remove(number)
        done.append(number)
        if number % 3 == 0:
            with suppress(FileExistsError), open(tmp_path / "lock.lease", "x") as out:
                out.write(holder)
    threads = [threading.Thread(target=take, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 30 and set(most) == {1}
    assert not (tmp_path / "lock.lease.gate").exists()


def test_a_lease_that_cannot_be_written_is_not_left_empty(tmp_path, leases, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path, mode="r"):
        open(path, mode).close()
        return Full()
    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError, match="locks cannot be written to: the disk is full"):
        files.lock(tmp_path / "locks/lock").__enter__()
    assert [p.name for p in tmp_path.glob("locks/*")] == ["lock"]


@pytest.mark.parametrize(
    "code, words",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the disk can only be read"),
        (errno.EACCES, "permission is denied"),
        (errno.EDQUOT, "the disk quota is used up"),
    ],
)
def test_a_disk_that_refuses_is_one_clear_error_and_leaves_nothing(store, monkeypatch, code, words):
    def refuse(*_):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, "fsync", refuse)
    other = {"kind": "test", "seed": 2}
    with pytest.raises(
        OSError, match=f"the folder {store.path(other).parent} cannot be written to: {words}"
    ):
        store.get_or_train(other, some_state)
    monkeypatch.undo()
    assert not list(store.root.rglob("*.new"))
    assert other not in store
    assert store.get(CONFIG) is not None
    assert store.get_or_train(other, some_state)


def test_a_disk_that_fills_up_keeps_what_was_there(store, monkeypatch):
    "A full disk while a file is replaced leaves the old one."
    before = store.path(CONFIG).read_bytes()
    monkeypatch.setattr(
        os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(OSError, match="the disk is full"):
        store.put(CONFIG, some_state(1))
    assert store.path(CONFIG).read_bytes() == before


def test_a_store_that_can_only_be_read_is_read(store, monkeypatch):
    """What is there comes back; what is not ends before its training; a damaged file stays where it
    is."""
    real = os.open

    def refuse(path, flags, *rest, **options):
        if str(path).startswith(str(store.root)) and flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **options)
    monkeypatch.setattr(os, "open", refuse)
    assert store.get_or_train(CONFIG, None) is not None
    with pytest.raises(
        OSError,
        match=f"the folder {store.root}/locks cannot be written to: the disk can only be read",
    ):
        store.get_or_train({"kind": "test", "seed": 2}, None)
    store.path(CONFIG).write_bytes(b"short")
    monkeypatch.setattr(
        os,
        "replace",
        lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, os.strerror(errno.EROFS))),
    )
    with pytest.warns(UserWarning, match="is damaged .* left where it is"):
        assert store.get(CONFIG) is None
    assert store.path(CONFIG).exists()


@pytest.mark.parametrize("at", ["store", "store/locks"])
def test_a_file_where_the_store_s_folder_should_be(tmp_path, at):
    write_atomic(tmp_path / at, "a file")
    with pytest.raises(
        OSError, match="store/locks cannot be written to: a file is where a folder should be"
    ):
        Store(tmp_path / "store").get_or_train(CONFIG, None)
    assert (tmp_path / at).read_text() == "a file"


def test_a_training_whose_result_could_not_be_written_is_not_lost(store, monkeypatch):
    other, fsync = {"kind": "test", "seed": 2}, os.fsync

    def make():
        store.checkpoint(other).save(some_state())
        monkeypatch.setattr(
            os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        return some_state()
    with pytest.raises(OSError, match="the disk is full"):
        store.get_or_train(other, make)
    monkeypatch.setattr(os, "fsync", fsync)
    assert state_digest(store.checkpoint(other).load()) == state_digest(some_state())
    store.get_or_train(other, some_state)
    assert not store.checkpoint(other).path.exists()


def test_entries_from_before_a_moment_count_as_missing(store):
    path = store.path(CONFIG)
    os.utime(path, (time.time() - 100,) * 2)
    fresh = Store(store.root, since=time.time() - 50)
    assert fresh.get(CONFIG) is None and CONFIG not in fresh and store.get(CONFIG) is not None
    fresh.get_or_train(CONFIG, some_state)
    assert CONFIG in fresh


def test_keys_depend_on_everything_and_on_no_order():
    assert config_key({"a": 1, "b": [1, 2]}) == config_key({"b": [1, 2], "a": 1})
    assert (
        len(
            {
                config_key(c)
                for c in ({"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": [1]}, {})
            }
        )
        == 7
    )
    for bad in ({"a": float("nan")}, {"a": Path(".")}, {"a": torch.zeros(1)}):
        with pytest.raises(ValueError, match="config: only plain data"):
            config_key(bad)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_is_not_imported(kind, tmp_path, capsys):
    with tarfile.open(tmp_path / "strange.tar", "w") as archive:
        about = tarfile.TarInfo("strange")
        about.type, about.linkname = kind, "/etc/passwd"
        archive.addfile(about)
    words = ("--store", str(tmp_path / "store"))
    assert cli.main(["store", "import", str(tmp_path / "strange.tar"), *words]) == 2
    said = capsys.readouterr().err
    assert said.endswith("it has something that is not a file: 'strange'\n") and "import: " in said


# files of the user's in the folder of a store

MINE = ["checkpoints/m.safetensors", "ab/mine.safetensors", "ab/.mine.safetensors.1.2.new", "ab/mine.damaged",
        "ab/notes.checkpoint", f"cd/{'ab' * 16}.safetensors", f"{'ab' * 16}.safetensors", "locks/mine",
        f"ab/{'AB' * 16}.safetensors", f"ab/{'ab' * 16}.safetensors.damaged.txt"]


@pytest.mark.parametrize("options", [[], ["--older-than", "0"], ["--all-but", "smoke"]])
@pytest.mark.parametrize("beside", [True, False])
def test_no_command_on_stores_touches_a_file_with_another_name(beside, options, tmp_path, capsys):
    root = tmp_path / "own"
    if beside: Store(root).put(CONFIG, some_state())
    for name in MINE: write_atomic(root / name, save({"w": torch.ones(2)}))
    for words in (["ls"], ["verify"], ["prune", "--dry-run", *options], ["prune", *options]):
        assert cli.main(["store", *words, "--store", str(root)]) == 0
        said = capsys.readouterr().out
        assert "10 files are no part of the store and left alone: ab/.mine" in said
        assert (f"{root} holds nothing of a store" in said) != beside or options
        assert "damaged: " not in said and "mine" not in said.partition("10 files are")[0]
    assert all((root / name).exists() for name in MINE)


def test_a_folder_in_an_entry_s_place_is_left_to_the_user(store, capsys):
    path = store.path(CONFIG)
    path.unlink()
    (path / "precious").mkdir(parents=True)
    for words, status, said in ((["verify"], 1, "damaged: {} (it is a folder; remove it by hand)"),
                                (["prune"], 0, "left {} (it is a folder; remove it by hand)"),
                                (["verify"], 1, "1 files, 1 damaged")):
        assert cli.main(["store", *words, "--store", str(store.root)]) == status
        assert said.format(path.relative_to(store.root)) in capsys.readouterr().out
    assert (path / "precious").is_dir()
    shutil.rmtree(path)
    path.symlink_to(store.root / "locks", target_is_directory=True)
    assert cli.main(["store", "prune", "--store", str(store.root)]) == 0
    assert cli.main(["store", "verify", "--store", str(store.root)]) == 0
    assert not path.is_symlink() and (store.root / "locks").is_dir(), "the link goes, not where it leads"


def test_a_header_that_is_no_json_is_told_in_words(store, capsys):
    path = store.path(CONFIG)
    path.write_bytes(save(some_state(), {"starlight": "[3 4]"}))
    assert cli.main(["store", "verify", "--store", str(store.root)]) == 1
    assert f"{path.name} (its header is no JSON)" in capsys.readouterr().out


def test_an_export_says_where_it_is_and_that_models_stay(store, tmp_path, capsys):
    file = tmp_path / "new" / "all.tar"
    assert cli.main(["store", "export", str(file), "--store", str(store.root)]) == 0
    assert capsys.readouterr().out == f"0 measurements exported to {file}; models are not exported\n"
    assert file.exists()
    assert cli.main(["store", "export", "", "--store", str(store.root)]) == 2
    assert "file: the path of a tar file is needed, not ''" in capsys.readouterr().err


# whatever lies in the place of an entry

CONFIGS = {
    "regular": {"kind": "regular", "algorithms": {"training": 1}, "dataset": "digits", "seed": 0,
                "architecture": "mlp", "model": {"depth": 1, "width": 4}, "network": {
                    "classes": 10, "dtype": "float32", "shape": [1, 8, 8], "weights": "a"}},
    "star": {"kind": "star", "dataset": "digits", "architecture": "mlp", "model": {}, "seed": 200000,
             "sources": ["0" * 32], "options": {}, "algorithms": {"star": 3}},
    "path": {"kind": "path", "a": "0" * 32, "b": "1" * 32, "points": 11, "algorithms": {}},
    "average": {"kind": "average", "members": ["0" * 32], "counts": [1, 2]},
    "other": {"anything": {"x": [1, None]}},
}
VALUES = [None, True, -1, 2**70, 1.5, "", "x" * 500, "\x1b[31m\n\u202e", [], [[]], {}, {"": None},
          ["0" * 32, 3], "0" * 32, [None], {"a": {"b": []}}, "regular", "star", "path"]


def mutated_config(generator):
    "A configuration in which one entry, at any depth, is gone, or has another value or name."
    config = json.loads(json.dumps(generator.choice(list(CONFIGS.values()))))
    within = config
    while True:
        deeper = [own for own in within.values() if isinstance(own, dict) and own]
        if not deeper or generator.random() < 0.7: break
        within = generator.choice(deeper)
    key, action = generator.choice(sorted(within)), generator.randrange(4)
    if action == 0: del within[key]
    elif action == 1: within[generator.choice(["kind", "together", "sources", key])] = (
        generator.choice(VALUES))
    elif action == 2: within[key] = generator.choice(VALUES)
    else: return generator.choice([*VALUES, [config]])
    return config


def mutated_header(generator):
    "The text of a header: one of ours with a mutated configuration, or no such thing."
    state = some_state()
    about = dict(config=mutated_config(generator), digest=state_digest(state), order=list(state))
    part = generator.choice([*about, None, None, None])
    if part: about[part] = generator.choice(VALUES)
    text = json.dumps(about)
    if generator.random() < 0.2:
        text = generator.choice(["", "{", "[" * 100_000, "3", text[:40], '{"config": NaN}'])
    return text


def strange_entry(path, generator):
    "Something in the place of an entry."
    path.parent.mkdir(exist_ok=True, parents=True)
    kind = generator.choice(["header"] * 7 + ["bytes", "folder", "pipe", "link", "loop", "empty"])
    if kind == "folder": path.mkdir()
    elif kind == "pipe": os.mkfifo(path)
    elif kind == "link": path.symlink_to("nowhere")
    elif kind == "loop": path.symlink_to(path.name)
    elif kind == "empty": path.touch()
    else:
        contents = bytearray(save(some_state(), {"starlight": mutated_header(generator)}))
        if kind == "bytes":
            for _ in range(generator.randint(1, 9)):
                contents[generator.randrange(len(contents))] = generator.randrange(256)
        path.write_bytes(contents)


def strange_key(path, generator):
    "The path with the key of its own configuration as its name, where it has one; or as it is."
    if generator.random() < 0.5: return
    try: key = config_key(read_about(path)["config"])
    except (OSError, ValueError, RecursionError): return
    path.rename(path.with_name(f"{key}{path.suffix}"))


def check_strange(seed, folder, capsys):
    "A store with a good entry and a strange one, through every command on stores."
    generator, root = random.Random(seed), folder / str(seed)
    Store(root).put(CONFIG, some_state())
    name = "%032x" % generator.getrandbits(128)
    suffix = generator.choice(["safetensors"] * 4 + ["checkpoint", "safetensors.damaged"])
    path = root / name[:2] / f"{name}.{suffix}"
    strange_entry(path, generator)
    if suffix == "safetensors": strange_key(path, generator)
    (good,) = root.glob(f"*/{config_key(CONFIG)}.safetensors")
    commands = [["ls"], ["verify"], ["export", str(root / "all.tar")], ["prune", "--dry-run"],
                ["prune"], ["prune", "--older-than", "0"]]
    for words in commands:
        there = good.exists()
        status = cli.main(["store", *words, "--store", str(root)])
        said = capsys.readouterr()
        assert status in ((0, 1) if words == ["verify"] else (0, 2) if "export" in words else (0,))
        if status != 2: assert not said.err
        assert "\x1b" not in said.out and "\u202e" not in said.out
        if words == ["ls"]: assert good.stem in said.out
        if words == ["prune"]: assert there == good.exists()
    assert not good.exists()
    shutil.rmtree(root)


@pytest.mark.parametrize("seeds", [
    range(12), pytest.param(range(12, 512), marks=pytest.mark.slow)], ids=["few", "many"])
def test_nothing_in_the_place_of_an_entry_stops_a_command(seeds, tmp_path, capsys):
    for seed in seeds: check_strange(seed, tmp_path, capsys)
