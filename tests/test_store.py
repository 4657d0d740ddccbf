"""The store: an entry is complete and right, or it is not there."""
import errno
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import pytest
import torch

from starlight_nb.base import write_whole
from starlight_nb.files import config_key, state_digest
from starlight_nb.store import Store

CONFIG = {"kind": "test", "seed": 1}


def some_state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(30, 7, generator=generator), "b": torch.randn(7, generator=generator).double(), "n": torch.tensor(3)}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.put(CONFIG, some_state())
    return store


def test_what_was_put_comes_back(store):
    found = store.get(CONFIG)
    assert list(found) == ["w", "b", "n"] and state_digest(found) == state_digest(some_state())
    assert all(found[k].dtype == v.dtype and found[k].shape == v.shape for k, v in some_state().items())


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


def test_a_lease_of_another_machine_runs_out(tmp_path, monkeypatch):
    "Its holder is not known to be dead, but does not refresh it."
    monkeypatch.setattr("starlight_nb.files.LEASE", 0.6)
    _take_flock_away(monkeypatch.setattr)
    store = Store(tmp_path)
    with store.lock(CONFIG):
        lease = next(tmp_path.glob("locks/*.lease"))
        record = lease.read_text()
    lease.write_text(record.replace(os.uname().nodename, "another-machine"))
    assert "another-machine" in lease.read_text()
    began = time.monotonic()
    assert store.get_or_train(CONFIG, some_state)
    assert 0.5 < time.monotonic() - began < 10


@pytest.mark.parametrize("code, words", [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the disk can only be read"),
                                         (errno.EACCES, "permission is denied"), (errno.EDQUOT, "the disk quota is used up")])
def test_a_disk_that_refuses_is_one_clear_error_and_leaves_nothing(store, monkeypatch, code, words):
    def refuse(*_):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, "fsync", refuse)
    other = {"kind": "test", "seed": 2}
    with pytest.raises(OSError, match=f"the folder {store.path(other).parent} cannot be written to: {words}"):
        store.get_or_train(other, some_state)
    monkeypatch.undo()
    assert not list(store.root.rglob("*.new")) and other not in store and store.get(CONFIG) is not None
    assert store.get_or_train(other, some_state)


def test_a_disk_that_fills_up_keeps_what_was_there(store, monkeypatch):
    "A full disk while a file is replaced leaves the old one."
    before = store.path(CONFIG).read_bytes()
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="the disk is full"):
        store.put(CONFIG, some_state(1))
    assert store.path(CONFIG).read_bytes() == before


def test_a_store_that_can_only_be_read_is_read(store, monkeypatch):
    "What is there comes back; what is not ends before its training; a damaged file stays where it is."
    real = os.open

    def refuse(path, flags, *rest, **options):
        if str(path).startswith(str(store.root)) and flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **options)
    monkeypatch.setattr(os, "open", refuse)
    assert store.get_or_train(CONFIG, None) is not None
    with pytest.raises(OSError, match=f"the folder {store.root}/locks cannot be written to: the disk can only be read"):
        store.get_or_train({"kind": "test", "seed": 2}, None)
    store.path(CONFIG).write_bytes(b"short")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, os.strerror(errno.EROFS))))
    with pytest.warns(UserWarning, match="is damaged .* left where it is"):
        assert store.get(CONFIG) is None
    assert store.path(CONFIG).exists()


@pytest.mark.parametrize("at", ["store", "store/locks"])
def test_a_file_where_the_store_s_folder_should_be(tmp_path, at):
    write_whole(tmp_path / at, "a file")
    with pytest.raises(OSError, match="store/locks cannot be written to: a file is where a folder should be"):
        Store(tmp_path / "store").get_or_train(CONFIG, None)
    assert (tmp_path / at).read_text() == "a file"


def test_a_training_whose_result_could_not_be_written_is_not_lost(store, monkeypatch):
    other, fsync = {"kind": "test", "seed": 2}, os.fsync

    def make():
        store.checkpoint(other).save(some_state())
        monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
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
    assert len({config_key(c) for c in ({"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": [1]}, {})}) == 7
    for bad in ({"a": float("nan")}, {"a": Path(".")}, {"a": torch.zeros(1)}):
        with pytest.raises(ValueError, match="config: only plain data"):
            config_key(bad)
