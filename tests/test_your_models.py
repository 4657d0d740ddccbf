"""Models, data and checkpoints of your own: import paths, files of weights, commands on files."""

import json
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import PROFILE, finish, make_study, starlight

from starlight_nb.barriers import barrier_between
from starlight_nb.data import Dataset, load
from starlight_nb.evaluation import evaluate
from starlight_nb.fusion import average_aligned
from starlight_nb.matching import match_weights
from starlight_nb.models import build
from starlight_nb.paper import cli
from starlight_nb.paper.execution import _execute_notebook
from starlight_nb.paper.members import forget_data, load_once, regular_member
from starlight_nb.paper.profiles import check_fits, load_profile
from starlight_nb.paper.request import check_request
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.runtime.imports import from_import_path, own_files, search_path
from starlight_nb.runtime.jobs import run_jobs
from starlight_nb.states import load_state, save_state, state_of
from starlight_nb.training import Recipe, train_population


MINE = """
import torch
from torch import nn
from starlight_nb.data import Dataset, Split

SCALE = 2.0

class Net(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.last(torch.relu(SCALE * self.first(x)))

def make(num_classes=3, width=4):
    return Net(num_classes, width)

def three(width=4):
    return Net(3, width)

def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    x = 2 * torch.randn(3, 5, generator=generator)[labels]
    x = x + torch.randn(60, 5, generator=generator)
    return Dataset("mine", Split(x[:40], labels[:40]), Split(x[40:], labels[40:]))
"""
MY_PROFILE = PROFILE.replace('"digits"', '"NAME:data"').replace('"mlp"', '"NAME:make"').replace(
    "{ depth = 1, width = 4 }", "{ width = 4 }").replace("batch_size = 200", "batch_size = 20")


@pytest.fixture
def write(tmp_path, monkeypatch, request):
    """Write a module with a name of its own into the current folder, with texts replaced by others
    and more text at its end; returns the name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"mine_{abs(hash(request.node.nodeid))}"

    def write(*changes, more=""):
        text = MINE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        Path(f"{name}.py").write_text(text + textwrap.dedent(more))
        sys.modules.pop(name, None)
        return name
    yield write
    sys.modules.pop(name, None)
    forget_data()


def write_profile(name, *changes):
    "Write the profile of a module, with texts replaced by others; returns its file."
    text = MY_PROFILE.replace("NAME", name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path("mine.toml").write_text(text)
    return "mine.toml"


# ---- import paths

WRONG_PATHS = {
    "mine.py:make": "of the form package.module:name is needed, such as my_models:make_model",
    "mine:": "of the form package.module:name",
    ":make": "of the form package.module:name",
    "NAME:make model": "of the form package.module:name",
    "no.such:make": "there is no module 'no', neither installed nor in the current folder",
    "NAME.sub:make": "there is no module 'NAME.sub'",
    "NAME:mkae": "the module 'NAME' .* has no 'mkae'",
    "NAME:Net.width": "has no 'Net.width'",
    "broken:make": r"importing 'broken' raised RuntimeError: not today \(broken.py, line 2\)",
    "unfinished:make": r"importing 'unfinished' raised SyntaxError: .*unfinished.py, line 1",
    "needs:make": r"importing 'needs' raised ModuleNotFoundError: No module named 'absent_pack",
    "script:make": r"importing 'script' raised SystemExit: 3",
}


@pytest.mark.parametrize("path", WRONG_PATHS)
def test_what_is_wrong_with_an_import_path_is_one_error(write, path):
    name = write()
    Path("broken.py").write_text("\nraise RuntimeError('not today')")
    Path("unfinished.py").write_text("def make(")
    Path("needs.py").write_text("import absent_package")
    Path("script.py").write_text("import sys\nsys.exit(3)")
    message = WRONG_PATHS[path].replace("NAME", name)
    with pytest.raises(ValueError, match=f"^model: .*{message}"):
        from_import_path(path.replace("NAME", name), "model")


def test_a_file_in_the_current_folder_never_stands_in_for_a_library(write):
    write()
    Path("wave.py").write_text("def open(): return 'not the library'")
    assert from_import_path("wave:Wave_read", "model").__module__ == "wave"


def test_workers_have_the_modules_of_this_process_and_the_code_of_now(write, tmp_path, monkeypatch):
    name = write()
    tasks = [(f"{name}:SCALE", "model")] * 2
    assert run_jobs(from_import_path, tasks, jobs=2) == [2.0, 2.0]
    from_import_path(*tasks[0])
    write(("SCALE = 2.0", "SCALE = 3.0"))
    from_import_path(*tasks[0])
    assert [file for file, _ in own_files()] == [f"{tmp_path}/{name}.py"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert str(tmp_path) in search_path()
    assert run_jobs(from_import_path, tasks, jobs=2) == [3.0, 3.0]


def test_kernels_have_the_current_folder(write):
    import nbformat
    name = write()
    from_import_path(f"{name}:make", "model")
    source = f"from starlight_nb.models import build\nprint(build('{name}:make', 2, width=7))"
    cells = [nbformat.v4.new_code_cell(source)]
    executed = _execute_notebook(nbformat.v4.new_notebook(cells=cells))
    assert "out_features=7" in executed.cells[0].outputs[0].text


# ---- models and data by import path

def test_an_import_path_stands_where_a_name_does(write, tmp_path):
    name = write(more="""
        def rooted(root): return Dataset(str(root), data().train, data().test)
        def ignored(*, size=30): return data()
    """)
    assert build(f"{name}:make", 7, width=2).last.weight.shape == (7, 2)
    assert build(f"{name}:three", 7).last.weight.shape == (3, 4)
    mine = load(f"{name}:data")
    assert isinstance(mine, Dataset) and len(mine.train) == 40
    assert load(f"{name}:rooted", tmp_path).name == str(tmp_path)
    assert load(f"{name}:ignored").digest == mine.digest
    few = load(f"{name}:data-30-10")
    assert few.name == f"{name}:data-30-10" and (len(few.train), len(few.test)) == (30, 10)
    assert load_once(f"{name}:data", tmp_path, "cpu") is load_once(f"{name}:data", tmp_path, "cpu")


MORE = """
    def fails(): raise KeyError("x")
    def number(): return 3
    def tensors(): return data().train.x, data().train.y
    def sized(n): return data()
    network = Net(3, 4)
    def same(num_classes=3): return network
    def other(): return nn.Linear(7, 3)
    def few(): return Net(2, 4)
    calls = []
    def changing():
        calls.append(1)
        return Dataset("changing", Split(torch.rand(9, 5), torch.arange(9) % 3), data().test)
"""
WRONG_DATA = {
    "NAME:fails": r"dataset: 'NAME:fails' raised KeyError: 'x' \(NAME.py, line \d+\)",
    "NAME:number": "dataset: 'NAME:number' must return a Dataset, not int",
    "NAME:tensors": "dataset: 'NAME:tensors' must return a Dataset, not tuple",
    "NAME:sized": "dataset: 'NAME:sized' raised TypeError: .*missing 1 required .* 'n'",
    "NAME:calls": "dataset: 'NAME:calls' is no function but list",
    "NAME:data-50": "dataset: 'NAME:data-50' asks for 50 training examples, 'mine' has 40",
}
WRONG_MODELS = {
    "NAME:fails": r"architecture: 'NAME:fails' raised KeyError: 'x' \(NAME.py, line \d+\)",
    "NAME:number": "architecture: 'NAME:number' must return an nn.Module, not int",
    "NAME:Net": "architecture: 'NAME:Net' raised TypeError: .*missing 1 required .* 'width'",
    "NAME:network": "architecture: 'NAME:network' is a network; a function that builds one is need",
}


@pytest.mark.parametrize("path", WRONG_DATA)
def test_what_is_wrong_with_a_data_function_is_one_error(write, path):
    name = write(more=MORE)
    with pytest.raises(ValueError, match=WRONG_DATA[path].replace("NAME", name)):
        load(path.replace("NAME", name))


@pytest.mark.parametrize("path", WRONG_MODELS)
def test_what_is_wrong_with_a_model_function_is_one_error(write, path):
    name = write(more=MORE)
    with pytest.raises(ValueError, match=WRONG_MODELS[path].replace("NAME", name)):
        build(path.replace("NAME", name))


WRONG_PROFILES = {
    "missing module": (("NAME:make", "nowhere_x:make"), "settings.small.architecture: 'nowhere_x:ma"),
    "missing name": (("NAME:data", "NAME:dtaa"), "settings.small.dataset: 'NAME:dtaa': the module"),
    "argument": (("{ width = 4 }", "{ witdh = 4 }"), "settings.small.model: .*mean 'width'"),
    "error": (("NAME:make", "NAME:fails"), "settings.small.model: .*not known"),
    "one network": (("NAME:make", "NAME:same"), "settings.small.*returns the same network each tim"),
}


@pytest.mark.parametrize("name", WRONG_PROFILES)
def test_a_profile_is_checked_when_it_is_read(write, name):
    (old, new), message = WRONG_PROFILES[name]
    module = write(more=MORE)
    changes = [(old.replace("NAME", module), new.replace("NAME", module))]
    if name == "one network": changes.append(("model = { width = 4 }\n", ""))
    with pytest.raises(ValueError, match=message.replace("NAME", module)):
        load_profile(write_profile(module, *changes))


@pytest.mark.parametrize("function, message", [
    ("other", "does not take the train examples .*shapes"), ("few", "label 2, but the model has 2")])
def test_a_network_that_does_not_suit_the_data_is_one_error(write, function, message):
    name = write(more=MORE)
    changes = (f"{name}:make", f"{name}:{function}"), ("model = { width = 4 }\n", "")
    setting = load_profile(write_profile(name, *changes)).settings["small"]
    with pytest.raises(ValueError, match=f"settings.small.model: .*{message}"):
        check_fits(setting, load(setting.dataset))


def test_a_run_refuses_data_that_change_each_time(write, tmp_path):
    name = write(more=MORE)
    profile = write_profile(name, (f"{name}:data", f"{name}:changing"))
    command = starlight("reproduce", "--profile", profile, "--dry-run", folder=tmp_path)
    status, _, error = finish(command)
    assert status == 2 and "returns other data each time; what it draws needs a fixed" in error
    assert "Traceback" not in error


# ---- other code and other data give other entries

def key_here(name, tmp_path):
    setting = load_profile(write_profile(name)).settings["small"]
    return regular_member(setting, "source", 0).key


def key_elsewhere(name, tmp_path):
    "The same in a new process."
    write_profile(name)
    program = ("from starlight_nb.paper.profiles import load_profile as read\n"
               "from starlight_nb.paper.members import regular_member as member\n"
               "print(member(read('mine.toml').settings['small'], 'source', 0).key)")
    found = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, text=True,
                           capture_output=True, check=True)
    return found.stdout.strip()


CHANGES = {
    "activation": ("torch.relu", "torch.tanh"),
    "constant": ("SCALE = 2.0", "SCALE = 3.0"),
    "labels": ("torch.arange(60) % 3", "torch.arange(60) % 2"),
    "data": ("manual_seed(0)", "manual_seed(1)"),
}


def test_the_key_of_an_entry_has_the_code_of_the_model_and_the_content_of_the_data(write, tmp_path):
    name = write()
    key = key_here(name, tmp_path)
    assert key == key_elsewhere(name, tmp_path)
    write(("SCALE = 2.0", "SCALE = 2.0  # a comment"))
    assert key_here(name, tmp_path) == key
    keys = {key}
    for change in CHANGES.values():
        write(change)
        keys.add(key_here(name, tmp_path))
    assert len(keys) == 1 + len(CHANGES)
    assert key_elsewhere(name, tmp_path) == key_here(name, tmp_path) != key


def test_data_that_changed_after_a_worker_loaded_them_are_loaded_anew(write, tmp_path):
    name = write(("manual_seed(0)", "manual_seed(int(open('seed').read()))"))
    Path("seed").write_text("0")
    setting = load_profile(write_profile(name)).settings["small"]
    study = make_study(setting, tmp_path / "store")
    member, = study.members("source", 1)
    Path("seed").write_text("1")
    forget_data()
    load_once(setting.dataset, study.environment.data, "cpu")  # so have a worker's data been loaded
    with pytest.raises(ValueError, match="'source-0' was listed with other data than 'mine_.*:data"):
        study.state(member)
    Path("seed").write_text("0")
    assert study.state(member)["last.weight"].shape == (3, 4)


# ---- a whole run

def test_figure_1_of_your_own_model(write, tmp_path):
    "Costs, budget, workers and kernels work with import paths; the second run finds everything."
    name = write()
    experiment = ('[experiments.fig3_paths]\nsettings = ["small"]\nsources = 2\nstars = 1\n'
                  "heldouts = 2\npoints = 3\n")
    profile = write_profile(name, (experiment, """[experiments.fig1_source_count]
settings = ["small"]
source_counts = [1, 2]
stars = 1
heldouts = 2
points = 3
"""))
    words = ("reproduce", "--profile", profile)
    assert check_request(profile, None, {}).settings()[0].architecture == f"{name}:make"
    budget = ("--budget", "10min", "--make", "--jobs", "2")
    status, out, error = finish(starlight(*words, *budget, folder=tmp_path))
    assert status == 0, error
    made = sorted((tmp_path / "store").glob("*/*.safetensors"))
    status, out, error = finish(starlight(*words, "--jobs", "2", folder=tmp_path))
    assert status == 0, error
    assert made == sorted((tmp_path / "store").glob("*/*.safetensors"))
    assert (tmp_path / "report/figures/fig1_source_count.png").exists()
    rows = (tmp_path / "report/data/fig1_source_count.csv").read_text()
    assert f"{name}:make,{name}:data" in rows


# ---- states in files

def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(),
                               torch.nn.Linear(4, 3))


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


class DistributedDataParallel(torch.nn.Module):
    "As PyTorch's class of this name, which needs several processes: the network is its attribute `module`."
    def __init__(self, module):
        super().__init__()
        self.module = module


WRAPPERS = {
    "none": lambda model: model,
    "data parallel": torch.nn.DataParallel,
    "distributed": DistributedDataParallel,
    "compiled": torch.compile,
    "nested": lambda model: torch.nn.DataParallel(torch.compile(DistributedDataParallel(model))),
    "average": torch.optim.swa_utils.AveragedModel,
}
CHECKPOINTS = {
    "state": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "args": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {
        "state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}},
    "model": lambda state: {"model": state, "mean": {"x": torch.zeros(3)}},
    "ema": lambda state: {"model_ema": state, "step": torch.tensor(3)},
    "another name": lambda state: {"generator": state, "epoch": 3},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_state_is_read_from_every_source(wrapper, tmp_path):
    model = network()
    wrapped = WRAPPERS[wrapper](model)
    for name, checkpoint in CHECKPOINTS.items():
        file = tmp_path / f"{name}.pt"
        torch.save(checkpoint(wrapped.state_dict()), file)
        for source in (file, str(file), checkpoint(wrapped.state_dict())):
            assert same(load_state(source), model.state_dict()), name
            assert same(load_state(source, network(1)), model.state_dict()), name
    assert same(load_state(wrapped), model.state_dict())
    assert same(load_state(wrapped, network(1)), model.state_dict())


def test_a_model_says_whether_a_prefix_belongs_to_its_names():
    model = network()
    wrapped = torch.nn.DataParallel(model)
    expected = {f"module.{name}": own for name, own in model.state_dict().items()}
    assert same(load_state(model, wrapped), expected)
    assert same(load_state(wrapped, wrapped), expected)
    own = DistributedDataParallel(model)  # a network whose only part is called `module`
    assert same(load_state(torch.nn.DataParallel(own), own), expected)
    part = {"module.weight": torch.ones(2), "bias": torch.ones(2)}
    assert same(load_state(part), part), "not all names have the prefix"


def shards(folder, state, ending="safetensors"):
    "Write a state as two files and their index."
    stem = {"safetensors": "model", "bin": "pytorch_model"}[ending]
    names, places = list(state), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"{stem}-0000{number + 1}-of-00002.{ending}"
        own = {name: state[name] for name in part}
        if ending == "bin": torch.save(own, folder / file)
        else: save_state(own, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def test_folders_of_hugging_face_are_read(tmp_path):
    state, other = (network(seed).state_dict() for seed in (0, 1))
    for ending in ("bin", "safetensors"):
        folder = tmp_path / ending
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        shards(folder, state, ending)
        index, = folder.glob("*.index.json")
        for source in (folder, index): assert same(load_state(source, network(1)), state)
        if ending == "bin": torch.save(other, folder / "pytorch_model.bin")
        else: save_state(other, folder / "model.safetensors")
        assert same(load_state(folder, network()), other)


def test_a_saved_state_is_whole(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.last = torch.nn.Embedding(7, 3), torch.nn.Linear(3, 7, bias=False)
            self.last.weight = self.embedding.weight
    model, path = Tied(), tmp_path / "deep" / "tied.safetensors"
    state = dict(model.state_dict(), view=torch.arange(6).reshape(2, 3).T)
    save_state(state, path)
    assert same(load_state(path), dict(sorted(state.items(), key=lambda one: one[0] != "view")))
    assert [*path.parent.iterdir()] == [path]
    for one in ("embedding.weight", "last.weight"):
        assert same(load_state({one: state[one]}, Tied()), dict(model.state_dict()))
    differ = {"embedding.weight": state["embedding.weight"], "last.weight": torch.ones(7, 3)}
    with pytest.raises(ValueError, match="source: 'last.weight' and 'embedding.weight' are one ten"):
        load_state(differ, model)


WRONG_STATES = {
    "name": ({"weight": torch.ones(1)}, "x.pt", "path: a name that ends in .safetensors is needed"),
    "empty": ({}, "x.safetensors", "state: a dict of tensors by name is needed"),
    "no tensor": ({"a": 3}, "x.safetensors", "state: a dict of tensors by name is needed"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "x.safetensors", "state: .*sparse"),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_what_cannot_be_saved_is_one_error_and_no_file(name, tmp_path):
    state, file, message = WRONG_STATES[name]
    with pytest.raises(ValueError, match=message): save_state(state, tmp_path / file)
    assert not [*tmp_path.iterdir()]


class Evil:
    def __reduce__(self): return os.mkdir, ("made_by_a_pickle",)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-200])
    return file


def wrong_sources(folder):
    "Sources that hold no state, each with the message."
    state = network().state_dict()
    torch.save({"model": state, "code": Evil()}, folder / "evil.pt")
    torch.save({"model": state, "code": Evil()}, folder / "old.pt",
               _use_new_zipfile_serialization=False)
    torch.save(network(), folder / "module.pt")
    torch.save(state, folder / "cut.pt")
    save_state(state, folder / "cut.safetensors")
    for file in ("cut.pt", "cut.safetensors"): truncate(folder / file)
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("no pickle at all")
    (folder / "empty").mkdir()
    (folder / "lacking").mkdir()
    shards(folder / "lacking", state)
    (folder / "lacking/model-00002-of-00002.safetensors").unlink()
    (folder / "other").mkdir()
    (folder / "other/model.safetensors.index.json").write_text("[1]")
    pair = {"model": state, "ema": state, "epoch": 3}
    return [
        (folder / "evil.pt", "would run code of posix.mkdir; save the state_dict"),
        (folder / "old.pt", "would run code of posix.mkdir"),
        (folder / "module.pt", "would run code of torch.nn.modules.* and 1 more"),
        (folder / "cut.pt", "cut.pt cannot be read .*truncated"),
        (folder / "cut.safetensors", "cut.safetensors is truncated"),
        (folder / "empty.pt", "empty.pt cannot be read"),
        (folder / "text.pt", "text.pt cannot be read"),
        (folder / "none.pt", "there is no file .*none.pt"),
        (folder / "empty", "empty has none of model.safetensors"),
        (folder / "lacking", "there is no file .*model-00002"),
        (folder / "other", "has no table weight_map"),
        (pair, "'model', 'ema' may each be meant; .*keys: 'model', 'ema', 'epoch'"),
        ({"generator": state, "critic": state}, "'generator', 'critic' may each be meant"),
        ({"weight": torch.ones(2), "epoch": 3}, "none is one .keys: 'weight', 'epoch'"),
        ({}, "none is one"),
        (3, "an nn.Module or a dict of tensors is needed, not int"),
    ]


def test_what_holds_no_state_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source, message in wrong_sources(tmp_path):
        with pytest.raises(ValueError, match=f"^source: .*{message}"): load_state(source)
    assert not (tmp_path / "made_by_a_pickle").exists()


def test_all_that_does_not_fit_is_said_at_once():
    deep = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(3), "head": torch.ones(1)}
    message = ("the dict does not fit Sequential; missing: 1.weight, 1.bias, 2.weight and 5 more; "
               r"unexpected: head; of other shapes: 0.bias \(3,\) in place of \(2,\)")
    with pytest.raises(ValueError, match=message): load_state(state, deep)


# ---- commands on files

@pytest.fixture
def files(write):
    "Two files of a trained network in the current folder; the name of its module too."
    name = write(more="""
        def normalised(num_classes=3, width=4):
            return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(),
                                 nn.Linear(width, num_classes))
    """)
    data, recipe = load(f"{name}:data"), Recipe(epochs=20, batch_size=20, lr=0.1)
    for function in ("make", "normalised"):
        make = partial(build, f"{name}:{function}", 3)
        for file, state in zip("ab", train_population(make, data, recipe, seeds=range(2))):
            save_state(state, f"{function}_{file}.safetensors")
    torch.save({"model": load_state("make_b.safetensors"), "epoch": 20}, "make_b.pt")
    return name


def command(capsys, *words):
    "Run the command in this process: exit status, stdout, stderr."
    status = cli.main(list(words))
    out, error = capsys.readouterr()
    return status, out, error


def test_barriers_of_files_are_those_of_the_library(files, capsys):
    model, data = f"{files}:make", f"{files}:data"
    words = ("barrier", "make_a.safetensors", "make_b.pt", "--model", model, "--data", data)
    network, loaded = build(model, 3), load(data)
    states = [load_state(f"make_{file}.safetensors", network) for file in "ab"]
    for options in ([], ["--split", "test", "--matching", "activations"], ["--matching", "none"]):
        status, out, error = command(capsys, *words, *options, "--json")
        found = json.loads(out)
        assert status == 0, error
        for key, matching in (("before", "none"), ("after", found["matching"])):
            assert found[key] == barrier_between(network, *states, loaded, matching=matching,
                                                 split=found["split"])
    status, out, error = command(capsys, *words)
    first, second, third = out.splitlines()
    ends = [evaluate(network, state, loaded.train)[0] for state in states]
    assert first.startswith("before matching: ") and "rises above the straight line" in first
    assert first.endswith("the loss is the cross-entropy (nats)")
    assert re.match(r"after matching by weights: \S+ \(\d+ % of that\)", second)
    assert third == "the train loss at both ends: {:.4g} and {:.4g}".format(*ends)


def test_a_model_inside_another_is_found_by_its_names(tmp_path):
    "Lightning puts `model.` before the names, and has tensors of its own beside."
    network = build("mlp")
    state = state_of(network)
    inside = {f"model.{name}": own for name, own in state.items()}
    for more in ({}, {"loss.weight": torch.ones(10)}):
        torch.save({"state_dict": inside | more}, tmp_path / "checkpoint.ckpt")
        found = load_state(tmp_path / "checkpoint.ckpt", network)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], own) for name, own in state.items())
    twice = inside | {f"ema_model.{name}": own + 1 for name, own in state.items()}
    with pytest.raises(ValueError, match="does not fit Sequential; missing: "): load_state(twice, network)
    with pytest.raises(ValueError, match="does not fit Sequential; missing: "):
        load_state(inside | {"model.more": torch.ones(1)}, network)


def test_a_barrier_that_unsuited_statistics_hide_is_told(files, capsys):
    for file in "ab":
        state = load_state(f"normalised_{file}.safetensors")
        moved = {name: own - 20 if name.endswith("running_mean") else own for name, own in state.items()}
        save_state(moved, f"moved_{file}.safetensors")
    options = ("--model", f"{files}:normalised", "--data", f"{files}:data")
    for name, warned in (("normalised", 0), ("moved", 2)):
        words = ("barrier", *(f"{name}_{file}.safetensors" for file in "ab"), *options)
        found = json.loads(command(capsys, *words, "--json")[1])
        assert len(found["warnings"]) == warned and len(found["ends"]) == 2
        lines = command(capsys, *words)[1].splitlines()
        assert len(lines) == 3 + warned
        for line, file in zip(lines[3:], "ab"):
            assert line.startswith(f"warning: moved_{file}.safetensors: with its stored normalisation statistics")
            assert "state_" not in line and "refresh=" not in line, "words of Python's functions"


def outputs(model, file):
    network = build(model, 3).eval()
    network.load_state_dict(load_state(file, network))
    return network(torch.ones(2, 5))


@pytest.mark.parametrize("function", ["make", "normalised"])
def test_aligned_and_merged_files_are_those_of_the_library(files, capsys, function):
    model, data = f"{files}:{function}", load(f"{files}:data")
    pair = [f"{function}_{file}.safetensors" for file in "ab"]
    with_data = ("--data", f"{files}:data")
    network = build(model, 3)
    spec = infer_spec(network, data.train.x[:2])
    states = [load_state(file, network) for file in pair]
    expected = permute(spec, match_weights(spec, *states).permutation, states[1])
    for example in (with_data, ("--input-shape", "5")):
        status, out, error = command(capsys, "align", *pair, "--model", model, *example,
                                     "--out", "new/c.safetensors")
        assert status == 0 and "in the order of" in out, error
        found = load_state("new/c.safetensors", network)
        assert all(torch.equal(found[name], own) for name, own in expected.items())
    assert torch.allclose(outputs(model, "new/c.safetensors"), outputs(model, pair[1]), atol=1e-5)
    for options in (with_data, (*with_data, "--repair"), ("--input-shape", "5")):
        status, out, error = command(capsys, "merge", *pair, pair[0], "--model", model, *options,
                                     "--out", "m.safetensors")
        assert status == 0 and "the average of 3 networks" in out, error
        note = "statistics are averages too" in out
        assert note == (function == "normalised" and "--data" not in options)
        measured = dict(model=network, data=data, repair="--repair" in options)
        if "--data" not in options: measured = {}
        merged = average_aligned(spec, [*states, states[0]], **measured)
        found = load_state("m.safetensors", network)
        assert all(torch.equal(found[name], own) for name, own in merged.items())


OUT, SHAPE = ("--out", "c.safetensors"), ("--input-shape", "5")
WRONG_COMMANDS = {
    "missing file": ("align", "none.pt", "make_b.pt", *OUT, *SHAPE, "there is no file none.pt"),
    "other network": ("align", "normalised_a.safetensors", "make_b.pt", *OUT, *SHAPE, "not fit Net; mi"),
    "model": ("align", "make_b.pt", "make_b.pt", *OUT, *SHAPE, "--model", "NAME:mkae", "model: .* has"),
    "no example": ("align", "make_b.pt", "make_b.pt", *OUT, "data, input-shape: one of them"),
    "shape": ("align", "make_b.pt", "make_b.pt", *OUT, "--input-shape", "7", "model does not run|sh"),
    "ending": ("align", "make_b.pt", "make_b.pt", "--out", "c.pt", "out: a name that ends in .safe"),
    "method": ("align", "make_b.pt", "make_b.pt", *OUT, "--matching", "weigths", "mean 'weights'"),
    "method and data": ("align", "make_b.pt", "make_b.pt", *OUT, "--matching", "activations",
                        "--input-shape", "5", "data: the matching 'activations' needs data"),
    "one file": ("merge", "make_b.pt", *OUT, "files: at least two are needed, not 1"),
    "repair": ("merge", "make_b.pt", "make_b.pt", *OUT, "--repair", "repair: data are needed"),
    "data": ("barrier", "make_b.pt", "make_b.pt", "--data", "NAME:dtaa", "data: .* has no 'dtaa'"),
    "named data": ("barrier", "make_b.pt", "make_b.pt", "--data", "digist", "mean 'digits'"),
    "split": ("barrier", "make_b.pt", "make_b.pt", "--data", "NAME:data", "--split", "val",
              "split: 'val' is not known"),
    "no matching": ("barrier", "make_b.pt", "make_b.pt", "--data", "NAME:data", "--matching", "weigths",
                    "matching: 'weigths' is not known; did you mean 'weights'"),
    "other data": ("barrier", "make_b.pt", "make_b.pt", "--data", "digits", "not fit Net; of other"),
}


@pytest.mark.parametrize("name", WRONG_COMMANDS)
def test_what_is_wrong_with_a_command_is_one_line_and_writes_nothing(files, capsys, name):
    *words, message = (word.replace("NAME", files) for word in WRONG_COMMANDS[name])
    if "--model" not in words: words += ["--model", f"{files}:make"]
    before = sorted(Path.cwd().iterdir())
    status, out, error = command(capsys, *words)
    assert status == 2 and not out
    assert re.match(f"starlight: .*({message}).*\n$", error), error
    assert sorted(Path.cwd().iterdir()) == before


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(files, capsys, monkeypatch):
    def full(path, contents): raise OSError(f"the folder {path.parent} cannot be written to: full")
    Path("c.safetensors").write_text("old")
    before = sorted(Path.cwd().iterdir())
    monkeypatch.setattr("starlight_nb.states.files.write_atomic", full)
    status, _, error = command(capsys, "merge", "make_b.pt", "make_b.pt", "--model",
                               f"{files}:make", "--input-shape", "5", *OUT)
    assert status == 2 and "cannot be written to: full" in error
    assert Path("c.safetensors").read_text() == "old" and sorted(Path.cwd().iterdir()) == before


def test_prefixes_and_modules_of_ones_own():
    "A prefix before each of the model's names, as Lightning's, is removed; a child called `module` keeps its name."
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    state = load_state({f"model.{name}": own for name, own in model.state_dict().items()}, model)
    assert list(state) == list(model.state_dict())

    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Linear(3, 2)
    holder = Holder()
    holder.load_state_dict(load_state(holder))


def test_the_default_of_a_model_holds_where_there_are_no_classes(tmp_path, monkeypatch):
    (tmp_path / "my_defaults.py").write_text("from torch import nn\ndef make(num_classes=3): return nn.Linear(2, num_classes)\n")
    monkeypatch.chdir(tmp_path)
    assert build("my_defaults:make", 0).out_features == 3 and build("my_defaults:make", 5).out_features == 5
    with pytest.raises(ValueError, match="'mlp' is a classifier, and the data have no classes"): build("mlp", 0)
