"""The store: an entry is complete and right, or it is not there."""
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import pytest
import torch

from starlight_nb.store import Store, config_key, state_digest

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
    assert path.with_suffix(".damaged").exists()


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


def test_two_processes_make_an_entry_once(tmp_path):
    context, calls = multiprocessing.get_context("spawn"), tmp_path / "calls"
    workers = [context.Process(target=_make_slowly, args=(tmp_path / "store", calls)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert calls.read_text() == "made\n"


def test_a_dead_holder_of_a_lock_does_not_block(tmp_path):
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_make_slowly, args=(tmp_path / "store", tmp_path / "calls"))
    worker.start()
    while not (tmp_path / "calls").exists():
        time.sleep(0.05)
    worker.kill()
    worker.join()
    assert Store(tmp_path / "store").get_or_train({"kind": "slow"}, some_state)


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
