"""States in matching: tied, complex, of low or mixed precision, with single numbers."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from starlight_nb.data import Dataset, Split
from starlight_nb.matching import (
    Matcher, align, match_activations, match_jointly, match_many, match_sinkhorn,
    match_straight_through, match_weights)
from starlight_nb.matching import weights as weights_module
from starlight_nb.matching.coordinate_descent import match_naively
from starlight_nb.matching.sinkhorn import batch_loss
from starlight_nb.permutation import PermutationSpec, check_spec, check_state, infer_spec, permute
from starlight_nb.star import train_star
from starlight_nb.training import Recipe

TOKENS = torch.arange(160).reshape(40, 4) % 9
TEXT = Dataset("text", Split(TOKENS, TOKENS[:, 0]), Split(TOKENS, TOKENS[:, 0]))


class Tied(nn.Module):
    "A text network whose embedding is its last layer, and with a buffer under two names."

    def __init__(self):
        super().__init__()
        self.words, self.hidden = nn.Embedding(9, 8), nn.Linear(8, 8)
        self.top = nn.Linear(8, 9, bias=False)
        self.top.weight = self.words.weight
        self.first_norm, self.second_norm = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.second_norm.running_mean = self.first_norm.running_mean

    def forward(self, tokens):
        x = self.first_norm(self.words(tokens).mean(1))
        return self.top(self.second_norm(self.hidden(x).relu()))


TIES = {"top.weight": "words.weight", "second_norm.running_mean": "first_norm.running_mean"}


def states(make, count, seed=0):
    "Random states of a network; second names of tensors stay tied."
    torch.manual_seed(seed)
    return [make().state_dict() for _ in range(count)]


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.fixture(scope="module")
def tied_spec():
    return infer_spec(Tied().eval(), TOKENS[:2])


def test_a_spec_knows_the_names_of_a_tied_tensor(tied_spec):
    assert tied_spec.tied == TIES
    assert PermutationSpec.from_json(tied_spec.to_json()) == tied_spec
    assert PermutationSpec.from_json(
        tied_spec.to_json().replace('"tied"', '"before there was the field"')).tied == {}
    wrong = tied_spec.to_json().replace('"top.weight": "words.weight"', '"top.weight": "nothing"')
    with pytest.raises(ValueError, match=r"tied\['top.weight'\]: shapes has no 'nothing'"):
        PermutationSpec.from_json(wrong)


@pytest.mark.parametrize("left_out", [*TIES.items()], ids=lambda pair: pair[0])
def test_one_name_of_a_tied_tensor_is_enough(tied_spec, left_out):
    a, b = states(Tied, 2)
    for name in left_out:  # its second name, as safetensors has it, or its first
        short = without(b, name)
        whole = check_state(tied_spec, short)
        assert list(whole) == list(a) and all(torch.equal(whole[key], b[key]) for key in b)
        moved = permute(tied_spec, tied_spec.random(torch.Generator().manual_seed(0)), short)
        assert moved.keys() == b.keys()
        expected = match_weights(tied_spec, a, b).objective
        assert match_weights(tied_spec, a, short).objective == expected
        assert match_many(tied_spec, a, [short])[0].objective == expected
        assert Matcher(tied_spec, [short]).match(without(a, name))[0].objective == expected
        assert match_jointly(tied_spec, [a, short]).cosine == match_jointly(tied_spec, [a, b]).cosine
    with pytest.raises(ValueError, match="state_b: the tensor 'words.weight' is missing: only the spec of the model has it"):
        match_weights(tied_spec, a, without(b, "top.weight", "words.weight"))


def test_two_names_with_different_values_are_one_clear_error(tied_spec):
    a, b = states(Tied, 2)
    b["top.weight"] = b["top.weight"] + 1
    with pytest.raises(ValueError, match="state_b: 'top.weight' and 'words.weight' are one tensor"):
        match_weights(tied_spec, a, b)
    b["top.weight"] = b["words.weight"].clone()
    match_weights(tied_spec, a, b)


def test_a_tied_tensor_counts_once(tied_spec):
    a, b = states(Tied, 2)
    names = [name for name, _ in Tied().named_parameters()]
    assert "top.weight" not in names
    moved = permute(tied_spec, match_weights(tied_spec, a, b).permutation, b)
    expected = sum(float((a[name].double() * moved[name].double()).sum()) for name in names)
    assert match_weights(tied_spec, a, b).objective == pytest.approx(expected, rel=1e-12)


def test_every_method_takes_states_with_gradients_and_without_second_names(tied_spec):
    a, b = (without(dict(state), "top.weight") for state in states(Tied, 2))
    a = {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in a.items()}
    model = Tied()
    for found in (
        match_sinkhorn(tied_spec, a, b, steps=3),
        match_sinkhorn(tied_spec, a, b, model=model, data=TEXT, cost="midpoint", steps=3),
        match_straight_through(tied_spec, a, b, model=model, data=TEXT, steps=3),
        match_activations(tied_spec, a, b, model=model, data=TEXT),
    ):
        moved = permute(tied_spec, found.permutation, b)
        assert not any(tensor.requires_grad for tensor in moved.values())
        assert torch.equal(moved["top.weight"], moved["words.weight"])


def test_the_loss_of_parameters_reaches_all_names_of_a_tied_tensor():
    a, b = states(Tied, 2)
    reference = Tied().eval()
    reference.load_state_dict(b)
    for norm in (reference.first_norm, reference.second_norm):
        norm.train()
    parameters = {name: b[name] for name, _ in reference.named_parameters()}
    found = batch_loss(Tied(), a)(parameters, TOKENS, TOKENS[:, 0])
    torch.testing.assert_close(found, F.cross_entropy(reference(TOKENS), TOKENS[:, 0]))


def test_named_parameters_are_sources_of_a_star():
    def make(): return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    data = Dataset("d", Split(x, (x[:, 0] > 0).long()), Split(x, (x[:, 0] > 0).long()))
    source, start, recipe = make(), make(), Recipe(epochs=1, batch_size=10, lr=0.1)
    star = train_star(start, [dict(source.named_parameters())], data, recipe)
    assert star.loss == train_star(start, [source.state_dict()], data, recipe).loss


def test_parameters_that_share_memory_are_tied():
    widths = [5, 6, 6, 6, 2]
    model = nn.Sequential(*[nn.Linear(*pair) for pair in zip(widths, widths[1:])])
    model[2].weight.data = model[1].weight.data
    assert infer_spec(model, torch.randn(2, 5)).tied == {"2.weight": "1.weight"}


class Complex(nn.Module):
    "Hidden layers of complex numbers, a complex table and a real number."

    def __init__(self, width=9):
        super().__init__()
        self.first = nn.Linear(4, width, dtype=torch.cfloat)
        self.last = nn.Linear(width, 3, dtype=torch.cfloat)
        self.gate = nn.Parameter(torch.randn(width, dtype=torch.cfloat))
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return (self.last(self.first(x).tanh() * self.gate)).abs() * self.temperature


POINTS = torch.randn(60, 4, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0))
WAVES = Dataset("waves", Split(POINTS, torch.arange(60) % 3), Split(POINTS, torch.arange(60) % 3))


def test_complex_networks_are_proven_in_double_precision():
    spec = infer_spec(Complex(), POINTS[:2])
    assert spec.groups == {"first": 9} and spec.coverage == 1
    assert max(check_spec(Complex(), spec, POINTS[:2]).values()) < 1e-12
    axes = {name: own for name, own in spec.axes.items() if name != "gate"}
    wrong = PermutationSpec(spec.groups, axes, spec.shapes)
    with pytest.raises(ValueError, match="outputs change under 'first'"):
        check_spec(Complex(), wrong, POINTS[:2])


def test_the_best_of_all_orders_of_complex_units_is_found():
    spec = infer_spec(Complex(4), POINTS[:2])
    for seed in range(5):
        a, b = states(lambda: Complex(4), 2, seed)

        def real_part(order):
            moved = permute(spec, {"first": torch.tensor(order)}, b)
            products = ((a[name].to(torch.complex128) * moved[name].conj()).sum() for name in a)
            return float(sum(products).real)

        best = max(map(real_part, permutations(range(4))))
        found = match_weights(spec, a, b)
        assert found.objective == pytest.approx(best, rel=1e-6)
        assert real_part(found.permutation["first"].tolist()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("small_network", [0, 100_000], ids=["by tensors", "flat"])
def test_a_planted_order_of_complex_units_is_recovered(small_network, monkeypatch):
    monkeypatch.setattr(weights_module, "SMALL_NETWORK", small_network)
    model, spec = Complex(), infer_spec(Complex(), POINTS[:2])
    a, = states(Complex, 1)
    planted = permute(spec, spec.random(torch.Generator().manual_seed(0)), a)
    for found in (
        match_weights(spec, a, planted),
        match_sinkhorn(spec, a, planted, steps=50),
        match_sinkhorn(spec, a, planted, model=model, data=WAVES, cost="midpoint", steps=2,
                       init=match_weights(spec, a, planted).permutation),
        match_straight_through(spec, a, planted, model=model, data=WAVES, steps=2),
        match_activations(spec, a, planted, model=model, data=WAVES),
    ):
        moved = permute(spec, found.permutation, planted)
        assert all(torch.equal(moved[name], a[name]) for name in a)
    permutation, _ = match_naively(spec, a, planted)
    assert torch.equal(permutation["first"], match_weights(spec, a, planted).permutation["first"])


def test_complex_and_real_do_not_match():
    spec = infer_spec(Complex(), POINTS[:2])
    a, b = states(Complex, 2)
    b["gate"] = b["gate"].real.clone()
    for match in (lambda: match_weights(spec, a, b), lambda: Matcher(spec, [b]).match(a),
                  lambda: match_jointly(spec, [a, b])):
        with pytest.raises(ValueError, match="'gate' is torch.(float32|complex64), and torch"):
            match()


@pytest.mark.parametrize("small_network", [0, 100_000], ids=["by tensors", "flat"])
@pytest.mark.parametrize("shape", [(), (1,), (0,)])
def test_networks_with_single_numbers_are_matched(shape, small_network, monkeypatch):
    monkeypatch.setattr(weights_module, "SMALL_NETWORK", small_network)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 2)
            self.temperature = nn.Parameter(torch.ones(shape))

        def forward(self, x):
            return self.last(self.first(x).relu()) * (1 + self.temperature.sum())

    spec = infer_spec(Scaled(), torch.randn(3, 6))
    a, b = states(Scaled, 2)
    found = match_weights(spec, a, b)
    moved = permute(spec, found.permutation, b)
    expected = sum(float((a[name].double() * moved[name].double()).sum()) for name in a)
    assert found.objective == pytest.approx(expected, rel=1e-12)
    matcher = Matcher(spec, [b])
    matcher.match(a)
    rows = torch.zeros(1, sum(tensor.numel() for tensor in a.values()))
    matcher.write(rows, [0], list(a))
    assert torch.equal(rows[0], torch.cat([moved[name].flatten() for name in a]))
    planted = permute(spec, spec.random(torch.Generator().manual_seed(0)), a)
    assert match_jointly(spec, [a, planted]).cosine == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_low_precision_is_raised_before_anything_is_summed(dtype, make_mlp):
    spec = infer_spec(make_mlp(), torch.randn(2, 1, 8, 8))
    low = [{name: (100 * tensor).to(dtype) for name, tensor in state.items()}
           for state in states(make_mlp, 3)]
    wide = [{name: tensor.double() for name, tensor in state.items()} for state in low]
    pairs = [(match_weights(spec, *low[:2]), match_weights(spec, *wide[:2])),
             (match_weights(spec, low[0], wide[1]), match_weights(spec, *wide[:2])),
             (match_weights(spec, wide[0], low[1]), match_weights(spec, *wide[:2])),
             (match_sinkhorn(spec, *low[:2], steps=5), match_sinkhorn(spec, *wide[:2], steps=5))]
    for found, expected in pairs:
        assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    found, expected = match_jointly(spec, low), match_jointly(spec, wide)
    assert found.cosine == pytest.approx(expected.cosine, rel=1e-6)
    for one, other in zip(found.permutations, expected.permutations):
        assert all(torch.equal(one[group], other[group]) for group in spec.groups)


def test_aligned_tied_networks_compute_what_they_did():
    torch.manual_seed(0)
    a, b = Tied().eval(), Tied().eval()
    aligned = align(a, b, TOKENS[:2]).eval()
    assert aligned.top.weight is aligned.words.weight
    torch.testing.assert_close(aligned(TOKENS), b(TOKENS))


def test_sums_of_networks_in_half_precision_keep_small_differences():
    axis, small = ((("units", 2),),), 2.0 ** -12
    spec = PermutationSpec({"units": 2}, {"w": (axis, None)}, {"w": (2, 2)})
    rows = [[[1, 1], [1, 1]], [[1, 0], [1, small]], [[1, small], [1, 0]]]
    found = match_jointly(spec, [{"w": torch.tensor(own).half()} for own in rows])
    assert found.between(1, 2)["units"].tolist() == [1, 0]
