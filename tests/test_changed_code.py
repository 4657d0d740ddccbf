"""The store and changed code: other code gives other entries, and old entries are told from new."""
import dataclasses
import os
import random
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_study, measured_paths

from starlight_nb.data import LOADERS, Dataset, Split
from starlight_nb.models import ARCHITECTURES
from starlight_nb.paper import cli, members
from starlight_nb.paper.averages import AveragePart, posteriors
from starlight_nb.paper.housekeeping import listing, prune, stored, verify
from starlight_nb.paper.members import (
    ALGORITHMS, ENTRY_KINDS, identify_network, network_of, regular_member, regular_pairs, star_pairs)
from starlight_nb.paper.predictors import PredictorPart, predictors
from starlight_nb.paper.profiles import Setting
from starlight_nb.runtime.store import Store
from starlight_nb.training import Recipe
from starlight_nb.training.fingerprint import network_fingerprint

NET = """
import torch
import torch.nn.functional as F
from torch import nn

SCALE = 0.5

class Stop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.sign()
    @staticmethod
    def backward(ctx, grad): return 1.0 * grad

def squash(x):
    return SCALE * x

class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.relu(self.linear(x))

class Net(nn.Module):
    def __init__(self, num_classes=3, width=16):
        super().__init__()
        self.first, self.second = Block(13, width), Block(width, width)
        self.norm = nn.BatchNorm1d(width, eps=1e-5, momentum=0.1)
        self.last = nn.Linear(width, num_classes)
        nn.init.normal_(self.last.weight, std=0.1)

    def forward(self, x):
        hidden = self.second(self.first(x))
        hidden = F.dropout(self.norm(hidden), 0.1, self.training)
        hidden = hidden + 0.1 * Stop.apply(hidden)
        return self.last(squash(hidden))
"""


def define(*changes):
    "The names that the source of the network defines, with texts replaced by others."
    source = NET
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    module = types.ModuleType("written_by_a_user")
    exec(source, vars(module))
    return module


def use(monkeypatch, *changes):
    "From now on, `mynet` is the network with these changes."
    monkeypatch.setitem(ARCHITECTURES, "mynet", define(*changes).Net)


@pytest.fixture
def setting(monkeypatch):
    "An MLP 13-16-16-3 on a small table."
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    x = torch.randn(3, 13, generator=generator)[labels] + torch.randn(90, 13, generator=generator)
    table = Dataset("table", Split(x[:60], labels[:60]), Split(x[60:], labels[60:]))
    monkeypatch.setitem(LOADERS, "table", lambda root=None: table)
    use(monkeypatch)
    recipe = Recipe(epochs=2, batch_size=20, lr=0.1)
    return Setting("mine", "mine", "table", "mynet", {"width": 16}, recipe, recipe, 2, 2)


def run(setting, folder):
    "The values of all paths among two solutions and a star."
    study = make_study(setting, folder, points=3)
    heldouts, stars = study.members("heldout", 2), study.stars([2], 1)
    frame = measured_paths(study, regular_pairs(heldouts) + star_pairs(stars, heldouts, 2))
    return frame.value.to_numpy()


def kinds(root):
    return sorted(kind for _, kind, *_ in listing(root))


CURRENT = ["path"] * 5 + ["regular"] * 4 + ["star"]
OLD = [f"{kind}, old" for kind in CURRENT]
CHANGES = {
    "activation": [("torch.relu(self", "torch.tanh(self")],
    "constant": [("SCALE = 0.5", "SCALE = 0.6")],
    "initialisation": [("std=0.1", "std=0.2")],
    "straight-through gradient": [("1.0 * grad", "2.0 * grad")],
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_code_gives_the_numbers_of_an_empty_store(setting, tmp_path, monkeypatch, name):
    before = run(setting, tmp_path / "store")
    assert kinds(tmp_path / "store") == CURRENT
    use(monkeypatch, *CHANGES[name])
    after, fresh = run(setting, tmp_path / "store"), run(setting, tmp_path / "empty")
    assert np.array_equal(after, fresh) and not np.allclose(before, after)
    assert kinds(tmp_path / "store") == sorted(CURRENT + OLD)
    new = {entry.key for entry in stored(tmp_path / "empty")}
    removed = prune(tmp_path / "store")
    entries = [reason for path, reason, _ in removed if path.suffix == ".safetensors"]
    assert len(entries) == 10 and all(reason.startswith("old: ") for reason in entries)
    assert {entry.key for entry in stored(tmp_path / "store")} == new
    assert np.array_equal(run(setting, tmp_path / "store"), after)
    use(monkeypatch)
    assert np.array_equal(run(setting, tmp_path / "store"), before), "made again"


@pytest.mark.parametrize(
    "algorithm, old",
    [("path", ["path"] * 5), ("star", ["path"] * 4 + ["star"]), ("training", CURRENT),
     ("matching", ["path"] * 5 + ["star"]), ("average", [])],
)
def test_another_version_of_an_algorithm_makes_what_depends_on_it_anew(
    setting, tmp_path, monkeypatch, algorithm, old
):
    before = run(setting, tmp_path)
    monkeypatch.setitem(ALGORITHMS, algorithm, ALGORITHMS[algorithm] + 1)
    assert kinds(tmp_path).count("path, old") == old.count("path")
    assert np.array_equal(run(setting, tmp_path), before), "the code itself has not changed"
    assert kinds(tmp_path) == sorted(CURRENT + [f"{kind}, old" for kind in old])
    assert len(prune(tmp_path, keep_old=True, dry_run=True)) == len(list(tmp_path.glob("locks/*")))
    prune(tmp_path)
    assert kinds(tmp_path) == CURRENT


def test_every_measurement_in_the_store_has_the_versions_of_its_algorithms(setting, tmp_path):
    study = make_study(setting, tmp_path, points=3)
    found = posteriors(study.members("source", 2), study.stars([2], 1), 1, [1, 2])
    AveragePart(study, found, resamples=5).rows()
    PredictorPart(study, predictors(study, [2], stars=1, source_sets=1, equal_budget=1)).rows()
    for entry in stored(tmp_path):
        assert entry.config["algorithms"] == {
            name: ALGORITHMS[name] for name in ENTRY_KINDS[entry.config["kind"]]
        }
    assert set(ALGORITHMS) == {name for names in ENTRY_KINDS.values() for name in names}


def as_before_fingerprints(store):
    "The entries of a store as older code has written them."
    for entry in stored(store.root):
        old = dict(entry.config)
        del old["algorithms"]
        old.pop("network", None)
        store.put(old, store.get(entry.config))
        entry.path.unlink()


def test_entries_from_before_fingerprints_are_old_and_never_read(setting, tmp_path, capsys):
    values = run(setting, tmp_path)
    as_before_fingerprints(Store(tmp_path))
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab" / f"{'ab' * 16}.safetensors").write_bytes(b"no header")
    other = {"kind": "mine", "network": "a text", "algorithms": 3}
    Store(tmp_path).put(other, {"x": torch.zeros(1)})
    assert kinds(tmp_path) == sorted(OLD + ["damaged", "mine"])
    assert cli.main(["store", "ls", "--store", str(tmp_path)]) == 0
    assert "12 entries, 10 of them old" in capsys.readouterr().out
    assert len(verify(tmp_path)[1]) == 1
    assert np.array_equal(run(setting, tmp_path), values)
    assert kinds(tmp_path) == sorted(CURRENT + OLD + ["damaged", "mine"])
    assert cli.main(["store", "prune", "--store", str(tmp_path), "--dry-run"]) == 0
    assert "from before there were versions" in capsys.readouterr().out
    prune(tmp_path)  # also what is damaged
    assert kinds(tmp_path) == sorted(CURRENT + ["mine"])


def test_of_a_name_that_is_not_known_here_the_latest_network_is_the_current_one(
    setting, tmp_path, monkeypatch
):
    run(setting, tmp_path)
    for entry in stored(tmp_path):
        os.utime(entry.path, (entry.written - 100,) * 2)
    use(monkeypatch, *CHANGES["activation"])
    run(setting, tmp_path)
    new = [entry.key for entry in stored(tmp_path)][10:]
    monkeypatch.delitem(ARCHITECTURES, "mynet")
    assert kinds(tmp_path) == sorted(CURRENT + OLD)
    prune(tmp_path)
    assert sorted(entry.key for entry in stored(tmp_path)) == sorted(new)


def test_a_network_that_cannot_be_built_any_more_is_old(setting, tmp_path, monkeypatch):
    run(setting, tmp_path)
    use(monkeypatch, ("width=16", "units=16"), ("width", "units"))
    assert kinds(tmp_path) == OLD


def test_members_of_changed_code_are_one_clear_error(setting, tmp_path, monkeypatch):
    study = make_study(setting, tmp_path, points=3)
    pairs = regular_pairs(study.members("heldout", 2))
    measured_paths(study, pairs)
    source = regular_member(setting, "source", 0)
    use(monkeypatch, *CHANGES["activation"])
    for again in (study, make_study(setting, tmp_path, points=3)):
        with pytest.raises(ValueError, match="members: 'heldout-0' was listed with another networ"):
            measured_paths(again, pairs)
        with pytest.raises(ValueError, match="'source-0' was listed with another network than "):
            again.state(source)
    assert len(stored(tmp_path)) == 3, "nothing was made"
    assert len(measured_paths(study, regular_pairs(study.members("heldout", 2))))


def test_a_changed_network_has_its_own_spec(setting, tmp_path, monkeypatch):
    study = make_study(setting, tmp_path)
    assert len(study.models.spec().groups) == 2
    use(monkeypatch, ("self.second(self.first(x))", "self.first(x) + self.second(self.first(x))"))
    assert len(study.models.spec().groups) == 1


def test_data_that_are_loaded_by_another_function_are_other_data(setting, monkeypatch):
    key = regular_member(setting, "source", 0).key
    table = LOADERS["table"]()
    changed = dataclasses.replace(table, train=Split(2 * table.train.x, table.train.y))
    monkeypatch.setitem(LOADERS, "table", lambda root=None: changed)
    assert regular_member(setting, "source", 0).key != key


def fingerprint(*changes):
    return network_fingerprint(define(*changes).Net, torch.ones(2, 13))


SAME = {
    "comment": [("return torch.relu", "# the activation\n        return torch.relu")],
    "docstring": [("def squash(x):\n", "def squash(x):\n    'Half.'\n")],
    "variable": [("hidden", "h")],
    "function of its own": [
        ("def squash", "def activation(x): return torch.relu(x)\n\ndef squash"),
        ("torch.relu(self", "activation(self")],
    "other constant of the same value": [("SCALE = 0.5", "SCALE = 1 / 2")],
}
OTHER = CHANGES | {
    "epsilon": [("eps=1e-5", "eps=1e-4")],
    "momentum": [("momentum=0.1", "momentum=0.2")],
    "dropout": [("0.1, self.training", "0.2, self.training")],
    "only in training": [("0.1, self.training", "0.1, True")],
    "stopped gradient": [("squash(hidden)", "squash(hidden.detach())")],
    "frozen weights": [("std=0.1)", "std=0.1).requires_grad_(False)")],
    "constant tensor": [("SCALE * x", "torch.tensor([SCALE, 1.0])[0] * x")],
    "tied layers": [("nn.init.normal_", "self.first.linear.bias = self.second.linear.bias\n"
                                        "        nn.init.normal_")],
    "no gradient": [("hidden = self.second(self.first(x))",
                     "with torch.no_grad(): hidden = self.second(self.first(x))")],
}


@pytest.mark.parametrize("name", SAME)
def test_what_computes_the_same_has_the_same_fingerprint(name):
    assert fingerprint(*SAME[name]) == fingerprint()


def test_what_computes_something_else_has_another_fingerprint():
    found = {name: fingerprint(*changes) for name, changes in OTHER.items()} | {"": fingerprint()}
    assert len({tuple(own.values()) for own in found.values()}) == len(found), found


def test_the_contents_of_a_constant_count():
    tensor = ("SCALE = 0.5", "SCALE = torch.tensor([0.5])")
    other = ("SCALE = 0.5", "SCALE = torch.tensor([0.6])")
    assert fingerprint(tensor)["operations"] != fingerprint(other)["operations"]


# Networks that do not always run the same operations: the first pass does not show the constant.
HIDDEN = {
    "value": "x = squash(x) if x.abs().sum() < 1e-9 else x",
    "list of values": "x = squash(x) if max(x.flatten().tolist()) < -1e9 else x",
    "array": "x = squash(x) if x.detach().numpy().sum() < -1e9 else x",
    "random number": "import random; x = squash(x) if random.random() < 1e-9 else x",
    "counter": "self.n = getattr(self, 'n', 0) + 1; x = squash(x) if self.n > 99 else x",
    "error": "x = x.view(2, 7, -1); x = squash(x)",
    "length": "x = squash(x) if len(x) > 2 else x",
    "size": "x = squash(x) if x.size(0) > 100 else x",
    "shape": "rows, _ = x.shape; x = squash(x) if rows > 100 else x",
    "number of elements": "x = squash(x) if x.numel() > 9999 else x",
    "rows": "for n, row in enumerate(x): x = squash(x) if n > 99 else x",
    "parts": "x = squash(x) if len(x.split(1)) > 99 else x",
    "list": "n = vars(self).setdefault('n', [0]); n[0] += 1; x = squash(x) if n[0] > 2 else x",
    "growing list": "n = vars(self).setdefault('n', []); n += [1]; x = squash(x) if n[2:] else x",
    "dict": "n = vars(self).setdefault('n', {'a': {}}); n['a'][len(n['a'])] = 1; "
            "x = squash(x) if len(n['a']) > 2 else x",
    "set": "n = vars(self).setdefault('n', set()); n.add(len(n)); x = squash(x) if n >= {9} else x",
    "count": "import itertools; n = vars(self).setdefault('n', itertools.count()); "
             "x = squash(x) if next(n) > 9 else x",
    "tensor": "n = vars(self).setdefault('n', torch.zeros(1)); n += 1; "
              "x = squash(x) if n.item() > 9 else x",
    "class": "Net.n = getattr(Net, 'n', 0) + 1; x = squash(x) if Net.n > 9 else x",
    "global": "global CALLS; CALLS = globals().get('CALLS', 0) + 1; "
              "x = squash(x) if CALLS > 9 else x",
    "function": "squash.n = getattr(squash, 'n', 0) + 1; x = squash(x) if squash.n > 9 else x",
}


def hidden(name):
    "The change that puts this line before the second layer."
    layer = "        hidden = self.second"
    return layer, f"        {HIDDEN[name]}\n{layer}"


@pytest.mark.parametrize("name", HIDDEN)
def test_code_that_the_pass_does_not_show_counts(name):
    line = hidden(name)
    other = ("SCALE = 0.5", "SCALE = 0.6")
    always = ("self.last(squash(hidden))", "self.last(hidden)")
    assert fingerprint(always) == fingerprint(always, other), "it is not used"
    assert fingerprint(line, always) == fingerprint(line, always)
    assert fingerprint(line, always)["operations"] != fingerprint(line, always, other)["operations"]
    for kind in ("comment", "docstring", "variable"):
        assert fingerprint(line, always) == fingerprint(line, always, *SAME[kind]), kind


def test_sizes_that_only_a_library_reads_tell_nothing_about_the_code():
    "So code may be moved where a layer of PyTorch asks for the size of a batch."
    layer, moved = "        hidden = self.second", SAME["function of its own"]
    library = (layer, f"        x = F.batch_norm(x, None, None, training=True)\n{layer}")
    own = (layer, f"        x = x[:len(x)]\n{layer}")
    assert fingerprint(library) == fingerprint(library, *moved)
    assert fingerprint(own) != fingerprint(own, *moved)


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_a_fingerprint_depends_on_no_random_state_and_leaves_it_as_it_was():
    line = ("        hidden = self.second",
            "        import random; hidden = random.random() * x + float(numpy.random.rand())\n"
            "        hidden = self.second")
    drawn = ("import torch\n", "import numpy\nimport torch\n")
    found = []
    for seed in (5, 6):
        for module in (random, np.random):
            module.seed(seed)
        torch.manual_seed(seed)
        before = random_states()
        found.append(fingerprint(drawn, line))
        assert random_states() == before
    assert found[0] == found[1]


def test_a_fingerprint_does_not_depend_on_what_runs_around_it():
    with torch.no_grad():
        inside = fingerprint()
    assert inside == fingerprint()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fingerprint_is_the_same_in_every_process(seed):
    program = textwrap.dedent("""
        import test_changed_code as t
        resnet = t.identify_network("resnet", {}, 10, [1, 8, 8], "float32")
        print(t.fingerprint(), t.fingerprint(t.hidden("value")), resnet)
    """)
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    found = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent,
                           env=environment, capture_output=True, text=True, check=True).stdout
    resnet = identify_network("resnet", {}, 10, [1, 8, 8], "float32")
    assert found.strip() == f"{fingerprint()} {fingerprint(hidden('value'))} {resnet}"


def test_a_fingerprint_is_taken_once_while_the_code_is_the_same(setting, monkeypatch):
    taken = []

    def count(*arguments):
        taken.append(arguments)
        return network_fingerprint(*arguments)
    members._fingerprint_once.cache_clear()
    monkeypatch.setattr(members, "network_fingerprint", count)
    first = network_of(setting)
    for _ in range(3):
        members.star_members(setting, [1, 2], 2)
    assert network_of(setting) == first and len(taken) == 1
    # A class is changed where it is, as when a notebook's cell or an editor changes a method.
    net = ARCHITECTURES["mynet"]
    changed = define(("self.last(squash(hidden))", "self.last(hidden)")).Net
    monkeypatch.setattr(net, "forward", changed.forward)
    assert network_of(setting)["operations"] != first["operations"] and len(taken) == 2
