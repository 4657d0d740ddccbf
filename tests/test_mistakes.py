"""What a newcomer may get wrong: each mistake is one clear error, which says what to do instead."""
import io
import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import starlight_nb
from starlight_nb.barriers import barrier_between, loss_barrier, matched_path, path_losses
from starlight_nb.bma import average_predictions, sample_star_domain
from starlight_nb.checks import check_model
from starlight_nb.data import Dataset, Split
from starlight_nb.evaluation import evaluate
from starlight_nb.fusion import average_aligned, train_fused_star
from starlight_nb.matching import (
    Matcher, align, match, match_activations, match_jointly, match_many, match_sinkhorn, match_straight_through,
    match_weights, partial_spec)
from starlight_nb.models import build, generator, initialise
from starlight_nb.paper import cli
from starlight_nb.paper.file_commands import describe_barriers
from starlight_nb.permutation import check_spec, compose, infer_spec, invert, permute
from starlight_nb.star import StarResult, train_star
from starlight_nb.states import state_of
from starlight_nb.training import Recipe, train_population

RECIPE = Recipe(epochs=1, batch_size=20)


def network(width=4): return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


model = network()
a, b = state_of(network()), state_of(network())
spec = infer_spec(model, torch.zeros(2, 5))
star = StarResult(a, [spec.identity()] * 2, [], 0)
rng = generator(0, "draws")
NO_SPEC = {
    "match_weights": lambda data: match_weights(model, a, b),
    "match_many": lambda data: match_many(model, a, [b]),
    "match_jointly": lambda data: match_jointly(model, [a, b]),
    "match_activations": lambda data: match_activations(model, a, b, model=model, data=data),
    "match_sinkhorn": lambda data: match_sinkhorn(model, a, b),
    "match_straight_through": lambda data: match_straight_through(model, a, b, model=model, data=data),
    "match": lambda data: match("none", model, a, b),
    "Matcher": lambda data: Matcher(model, [a, b]),
    "Matcher of none": lambda data: Matcher(model, []),
    "permute": lambda data: permute(model, spec.identity(), a),
    "check_spec": lambda data: check_spec(model, model, torch.zeros(2, 5)),
    "partial_spec": lambda data: partial_spec(model, model, torch.zeros(2, 5)),
    "average_aligned": lambda data: average_aligned(model, [a, b]),
    "average_aligned, together": lambda data: average_aligned(model, [a, b], around="together"),
    "sample_star_domain": lambda data: sample_star_domain(star, [a, b], 2, rng, spec=model),
    "train_star": lambda data: train_star(model, [a], data, RECIPE, spec=model),
    "train_fused_star": lambda data: train_fused_star(model, [a], data, RECIPE, spec=model),
    "barrier_between": lambda data: barrier_between(model, a, b, data, spec=model),
}


@pytest.mark.parametrize("name", NO_SPEC)
def test_a_model_in_place_of_a_spec(name, small):
    with pytest.raises(ValueError, match=r"^spec: a PermutationSpec is needed, not Sequential; infer_spec\(model, "):
        NO_SPEC[name](small)


def test_a_matching_in_place_of_its_permutation():
    found = match_weights(spec, a, b)
    for call in (lambda: permute(spec, found, b), lambda: match_weights(spec, a, b, init=found),
                 lambda: compose(spec.identity(), found), lambda: invert(found)):
        with pytest.raises(ValueError, match=r"^\w+: a dict .* is needed, not Matching; pass the matching's .permutation"):
            call()


@pytest.mark.parametrize("call", [
    lambda data: barrier_between(model, a, b, data), lambda data: train_star(model, [a], data, RECIPE),
    lambda data: sample_star_domain(star, [a, b], 2, rng, model=model, data=data)],
    ids=["barrier_between", "train_star", "sample_star_domain"])
def test_data_of_another_shape(call, small):
    wide = Dataset("wide", *((torch.zeros(6, 7), torch.arange(6) % 3) for _ in "ab"))
    with pytest.raises(ValueError, match="^data: the model does not accept its inputs: mat1 and mat2"): call(wide)


@pytest.mark.parametrize("swapped", [False, True])
def test_targets_that_are_no_labels_are_told_with_their_part(swapped):
    pair = (torch.arange(6) % 3, torch.zeros(6, 5)) if swapped else (torch.zeros(6, 5), torch.zeros(6))
    for parts in ((pair, pair), (DataLoader(TensorDataset(*pair), 3),) * 2):
        with pytest.raises(ValueError, match="^train, targets: labels are integers from 0 in one dimension"):
            barrier_between(model, a, b, Dataset("own", *parts))


def test_data_in_place_of_example_inputs(small):
    loader = DataLoader(TensorDataset(small.train.x, small.train.y), 8)
    for wrong in (loader, loader.dataset, small, small.train):
        for call in (lambda: infer_spec(model, wrong), lambda: align(model, network(), wrong),
                     lambda: partial_spec(spec, model, wrong)):
            with pytest.raises(ValueError, match=rf"^example_inputs: .* not {type(wrong).__name__}; data.train.first\(2\)"):
                call()
        assert "data.train.first(2) gives two" in repr(check_model(model, wrong))


def test_data_in_place_of_a_part_and_a_part_in_place_of_data(small):
    loader = DataLoader(TensorDataset(small.train.x, small.train.y), 8)
    for wrong in (loader, small):
        for call in (lambda: evaluate(model, a, wrong), lambda: average_predictions(model, [a], wrong)):
            with pytest.raises(ValueError, match=r"part of a data set.* such as data.test.*Split\(x, y\) and Stream\(loader\)"):
                call()
    with pytest.raises(ValueError, match=r"^data: a Dataset is needed, not DataLoader; Dataset\(name, train=\.\.\., test="):
        barrier_between(model, a, b, loader)


def test_what_has_a_state_in_place_of_a_state(small):
    for wrong, hint in ((star, "pass its `.state`"), ("a.pt", "load_state(path) reads a file"),
                        (model, "pass its `state_dict()`")):
        for call in (lambda: barrier_between(model, wrong, b, small), lambda: path_losses(model, wrong, b, small)):
            with pytest.raises(ValueError, match=f"^state_a: .*; {re.escape(hint)}"): call()


def test_a_state_in_place_of_a_list_of_states(small):
    for name, call in (("sources", lambda: train_star(model, a, small, RECIPE)),
                       ("sources", lambda: train_star(model, model, small, RECIPE)),
                       ("states", lambda: average_aligned(spec, a)), ("states", lambda: match_jointly(spec, a)),
                       ("states_b", lambda: match_many(spec, a, b)), ("states_b", lambda: Matcher(spec, b)),
                       ("states", lambda: average_predictions(model, a, small.test))):
        with pytest.raises(ValueError, match=f"^{name}: a list of states is needed, even for one"): call()


def test_models_of_different_widths_are_told_by_their_own_names():
    with pytest.raises(ValueError, match="^model_b: '0.weight' has the shape"):
        align(network(), network(8), torch.zeros(2, 5))


@pytest.mark.parametrize("wrap, inside", [(torch.compile, "_orig_mod"), (nn.DataParallel, "module")])
def test_a_wrapped_model_with_states_of_the_module_inside(wrap, inside, small):
    for call in (lambda: barrier_between(wrap(model), a, b, small),
                 lambda: barrier_between(wrap(model), a, b, small, matching="none"),
                 lambda: evaluate(wrap(model), a, small.test), lambda: train_star(wrap(model), [a], small, RECIPE)):
        with pytest.raises(ValueError, match=f"^model: it is wrapped; pass the module inside, model.{inside}"): call()


def test_a_misspelled_name_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'barier_between'; did you mean 'barrier_between'"):
        starlight_nb.barier_between
    assert not hasattr(starlight_nb, "__wrapped__")


# ---- on the command line

def test_wrong_words_for_a_model_data_and_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mistaken.py").write_text("from torch import nn\nloader = [1]\n"
                                          "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))")
    torch.save({"other": torch.ones(2)}, "a.pt")
    def said(model="mistaken:make", data="digits-100-50", files=("a.pt", "a.pt")):
        assert cli.main(["barrier", *files, "--model", model, "--data", data]) == 2
        return capsys.readouterr().err.strip().removeprefix("starlight: ")
    assert said("mistaken.make") == "model: 'mistaken.make' is not known; did you mean 'mistaken:make', with a colon?"
    assert said(data="mistaken.loader").endswith("did you mean 'mistaken:loader', with a colon?")
    assert said(data="mistaken:loader").endswith("no function but list; a function that returns a Dataset is needed")
    assert said().startswith("a.pt does not fit Sequential; missing: ")
    assert said(files=("no.pt", "a.pt")) == "there is no file no.pt"
    for command, more in (("align", ("a.pt", "a.pt")), ("merge", ("a.pt", "a.pt"))):
        words = (command, *more, "--model", "mistaken:make", "--out", "c.safetensors", "--input-shape")
        assert cli.main([*words, "1,8,8"]) == 2
        assert capsys.readouterr().err.startswith("starlight: a.pt does not fit Sequential; missing: ")


def test_a_shape_that_the_network_does_not_take(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(build("mlp")), "a.pt")
    words = ("--model", "starlight_nb.models:mlp", "--out", "c.safetensors", "--input-shape", "3,8")
    assert cli.main(["align", "a.pt", "a.pt", *words]) == 2
    assert capsys.readouterr().err.startswith("starlight: input-shape: Sequential does not accept them: ")


@pytest.mark.parametrize("command", ["align", "merge"])
@pytest.mark.parametrize("shape", ["1,80000,80000", "99999999999,99999999999"])
def test_a_shape_that_no_memory_holds(command, shape, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(build("mlp")), "a.pt")
    words = ("--model", "starlight_nb.models:mlp", "--out", "c.safetensors", "--input-shape", shape)
    assert cli.main([command, "a.pt", "a.pt", *words]) == 2
    assert capsys.readouterr().err == (
        f"starlight: input-shape: {shape} is too large; one input may have up to 50,000,000 numbers\n")


def test_what_is_wrong_with_a_file_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = state_of(build("mlp"))
    torch.save(good, "good.pt")
    torch.save({name: tensor * float("nan") for name, tensor in good.items()}, "nan.pt")
    torch.save({name: tensor.to("meta") for name, tensor in good.items()}, "meta.pt")
    for command in ("align", "merge", "barrier"):
        words = ["--data", "digits-100-50", "--model", "starlight_nb.models:mlp"]
        if command != "barrier": words += ["--out", "c.safetensors"]
        for wrong, message in (("nan.pt", "nan.pt: '1.weight' has values that are not finite"),
                               ("meta.pt", "meta.pt: '1.weight' has no values (device meta)"),
                               ("", "files: the path of a file or a folder is needed, not ''")):
            assert cli.main([command, "good.pt", wrong, *words]) == 2
            assert capsys.readouterr().err == f"starlight: {message}\n"


def test_a_function_that_returns_no_model_is_named_as_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no_model.py").write_text("def train(): return 3")
    words = ("a.pt", "a.pt", "--model", "no_model:train", "--data", "digits-100-50")
    assert cli.main(["barrier", *words]) == 2
    assert capsys.readouterr().err == "starlight: model: 'no_model:train' must return an nn.Module, not int\n"


@pytest.mark.parametrize("command", ["align", "merge"])
@pytest.mark.parametrize("out", ["one.safetensors", "folder/model.safetensors"])
def test_what_is_read_is_not_replaced(command, out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / out).write_bytes(b"weights")
    words = ("--model", "starlight_nb.models:mlp", "--input-shape", "1,8,8", "--out", f"../{tmp_path.name}/{out}")
    assert cli.main([command, "two.safetensors", out.partition("/")[0], *words]) == 2
    assert "out: " in (said := capsys.readouterr().err) and "would replace what is read from" in said
    assert (tmp_path / out).read_bytes() == b"weights"


def test_without_a_matching_nothing_is_said_of_an_order():
    found = dict(before=0.5, after=0.5, split="train", ends=[1.0, 2.0], loss="loss", warnings=[])
    assert "in the order of" in describe_barriers(found | {"matching": "weights"})
    without = describe_barriers(found | {"matching": "none"})
    assert "in the order of" not in without and "stay in their own order" in without


def list_command(redirection, **variables):
    "Standard error and exit status, its last word, of `starlight list` in a shell."
    program = "from starlight_nb.paper.cli import main; raise SystemExit(main(['list']))"
    command = f"({sys.executable} -c \"{program}\"; echo $? >&2) {redirection}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ | variables)


def test_a_reader_that_leaves_early_is_no_error():
    assert list_command("| true").stderr.split() == ["141"]


def test_a_closed_output_is_no_error():
    assert list_command(">&-").stderr.split() == ["0"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_named(unbuffered):
    said, status = list_command(">/dev/full", PYTHONUNBUFFERED=unbuffered).stderr.splitlines()
    assert said == "starlight: standard output cannot be written to: No space left on device" and status == "2"


def test_characters_that_an_output_does_not_have_are_no_error(monkeypatch, capsys):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setitem(vars(cli), "_list", lambda arguments: print("a · b") or 0)
    assert cli.main(["list"]) == 0 and output.buffer.getvalue() == b"a ? b\n"


def test_closed_outputs_are_replaced_in_this_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["list"]) == 0 and cli.main(["store", "ls", "--store", "nowhere"]) == 2


@pytest.mark.parametrize("words, goes_on", [([], True), (["--dry-run"], False)])
def test_a_dry_run_that_is_stopped_has_nothing_to_continue(words, goes_on, monkeypatch, capsys):
    def stop(arguments): raise KeyboardInterrupt
    monkeypatch.setitem(vars(cli), "_reproduce", stop)
    assert cli.main(["reproduce", *words]) == 130
    assert ("the same command continues" in capsys.readouterr().err) == goes_on


@pytest.fixture(scope="module")
def trained(small):
    "Two trained networks, which fit the data."
    recipe = Recipe(epochs=40, batch_size=20, lr=0.05)
    return train_population(network, small, recipe, seeds=range(2))


def rows_of(report, what):
    "The verdicts and findings of a check's rows of one name."
    return [(verdict, finding) for name, verdict, finding in report.rows if name == what]


def test_labels_of_other_classes_are_told_where_a_barrier_is_hidden(small, trained):
    "Ends that are worse than a guess hide everything between them."
    shifted = Dataset("shifted", *(Split(part.x, (part.y + 1) % 3) for part in (small.train, small.test)))
    with warnings.catch_warnings(action="error"):
        assert barrier_between(model, *trained, small) >= 0
        path_losses(model, trained[0], trained[0], shifted)
    for call in (lambda: barrier_between(model, *trained, shifted),
                 lambda: path_losses(model, *trained, shifted, refresh=False)):
        with pytest.warns(UserWarning, match="a guess among 3 classes costs 1.099") as told: call()
        assert [str(one.message)[:8] for one in told] == ["state_a:", "state_b:"]
    own = network()
    own.load_state_dict(trained[0])
    (verdict, finding), = rows_of(check_model(own, small.train.x[:2], small), "loss")
    assert verdict == "ok" and "guess" not in finding
    (verdict, finding), = rows_of(check_model(own, small.train.x[:2], shifted), "loss")
    assert verdict == "note" and "worse than a guess (1.0986)" in finding


def test_states_of_one_model_that_changed_are_told(small):
    "`state_dict()` of one model, collected in a loop: all are the last one."
    own = network()
    collected = []
    for _ in range(2):
        nn.init.normal_(own[0].weight)
        collected.append(own.state_dict())
    for call, second in ((lambda: barrier_between(model, *collected, small), "state_b"),
                         (lambda: train_star(model, collected, small, RECIPE), r"sources\[1\]"),
                         (lambda: average_aligned(spec, collected), r"states\[1\]")):
        with pytest.warns(UserWarning, match=f"^{second}: its tensors are those of .*, in the same memory"): call()
    with warnings.catch_warnings(action="error"):
        train_star(model, [a, a], small, RECIPE)
        average_aligned(spec, [a, state_of(own), b])


def test_probabilities_in_place_of_logits_are_noted(small):
    found = {kind: rows_of(check_model(nn.Sequential(network(), kind()), small.train.x[:2], small), "outputs")
             for kind in (nn.Softmax, nn.Identity)}
    assert any(verdict == "note" and "like probabilities" in text for verdict, text in found[nn.Softmax])
    assert [verdict for verdict, _ in found[nn.Identity]] == ["ok"]


def test_a_model_that_is_random_when_it_is_evaluated_is_wrong():
    class Noisy(nn.Sequential):
        def forward(self, x): return super().forward(nn.functional.dropout(x, 0.5))
    report = check_model(Noisy(*network()), torch.ones(4, 5))
    assert rows_of(report, "copy") == []
    (verdict, finding), = rows_of(report, "outputs")
    assert verdict == "wrong" and "random in evaluation mode too" in finding


def test_averaged_statistics_are_told(small):
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    states, own = [state_of(make()) for _ in range(2)], infer_spec(make(), torch.zeros(2, 5))
    with pytest.warns(UserWarning, match="1.running_mean, 1.running_var.*: means of the statistics"):
        average_aligned(own, states)
    with warnings.catch_warnings(action="error"): average_aligned(own, states, model=make(), data=small)


def test_statistics_that_did_not_move_in_training_can_be_kept(small):
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    states = [state_of(initialise(make, seed)) for seed in range(2)]
    kept = path_losses(make(), *states, small, refresh=False)
    assert barrier_between(make(), *states, small, matching="none", refresh=False) == loss_barrier(kept)
    path = matched_path(make(), *states, small, matching="none", refresh=False)
    assert path.loss["train"].tolist() == kept.loss["train"].tolist()


def test_a_network_in_place_of_what_builds_it():
    with pytest.raises(ValueError, match="^make: a function that builds a network is needed, not Sequential"):
        initialise(network(), 0)
