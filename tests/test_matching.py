"""Matching: known answers are found, the objective never falls, and nothing depends on luck."""
from functools import partial
from itertools import permutations, product

import pytest
import torch
from torch import nn

from starlight_nb.matching import align, inner_product, match_weights
from starlight_nb.models import build, initialise
from starlight_nb.permutation import PermutationSpec, compose, infer_spec, permute
from starlight_nb.training import state_of

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def random_state(make, seed):
    "A network with every parameter and statistic drawn at random."
    generator, state = torch.Generator().manual_seed(seed), state_of(initialise(make, seed))
    return {k: v + 0.1 * torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.parametrize("make", [partial(build, "mlp", depth=4, width=40), partial(build, "resnet", width=6, blocks=(2, 2, 2))], ids=["mlp", "resnet"])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_permutation_is_recovered_exactly(make, seed):
    spec, state = infer_spec(make(), IMAGE), random_state(make, seed)
    planted = spec.random(torch.Generator().manual_seed(seed))
    moved = permute(spec, planted, state)
    found = match_weights(spec, state, moved).permutation
    assert all(torch.equal(permute(spec, found, moved)[name], state[name]) for name in state)
    assert all(torch.equal(compose(found, planted)[g], spec.identity()[g]) for g in spec.groups)


def test_it_finds_the_best_of_all_permutations_where_they_can_be_listed():
    make = partial(build, "mlp", depth=1, width=4)
    spec = infer_spec(make(), IMAGE)
    names = [name for name, _ in make().named_parameters()]
    (group, size), = spec.groups.items()
    for seed in range(5):
        a, b = random_state(make, seed), random_state(make, seed + 50)
        best = max(inner_product(a, permute(spec, {group: torch.tensor(p)}, b), names) for p in permutations(range(size)))
        assert match_weights(spec, a, b).objective == pytest.approx(best, rel=1e-12)


def test_with_two_groups_no_single_group_can_be_improved():
    make = partial(build, "mlp", depth=2, width=3)
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    names, found = [name for name, _ in make().named_parameters()], match_weights(spec, a, b)
    for group, order in product(spec.groups, permutations(range(3))):
        other = found.permutation | {group: torch.tensor(order)}
        assert inner_product(a, permute(spec, other, b), names) <= found.objective + 1e-9


@pytest.mark.parametrize("order", ["forward", "random"])
def test_the_objective_never_falls_and_is_what_it_says(order):
    make = partial(build, "resnet", width=6, blocks=(2, 1))
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    found = match_weights(spec, a, b, order=order, seed=3)
    descent = found.history[1:] if order == "forward" else found.history
    assert all(x <= y for x, y in zip(descent, descent[1:])) and found.history[-1] > found.history[0]
    names = [name for name, _ in make().named_parameters()]
    assert inner_product(a, permute(spec, found.permutation, b), names) == pytest.approx(found.objective, rel=1e-12)


def test_one_tensor_with_one_group_on_both_axes():
    "A residual layer x + Wx makes the objective quadratic in one permutation; it must still never fall."
    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x)
            return self.last(x + self.inner(x))

    spec = infer_spec(Stream(), torch.randn(2, 5))
    assert list(spec.groups.values()) == [8]
    for seed in range(10):
        a, b = random_state(Stream, seed), random_state(Stream, seed + 100)
        for order in ("forward", "random"):
            found = match_weights(spec, a, b, order=order)
            descent = found.history[1:] if order == "forward" else found.history
            assert all(x <= y + 1e-12 for x, y in zip(descent, descent[1:]))
        moved = permute(spec, spec.random(torch.Generator().manual_seed(seed)), a)
        assert match_weights(spec, a, moved).cosine == pytest.approx(1, abs=1e-12)


def test_equal_and_identical_units_stay_where_they_are():
    make = partial(build, "mlp", depth=2, width=6)
    spec, state = infer_spec(make(), IMAGE), random_state(make, 0)
    state["1.weight"][3], state["1.bias"][3], state["3.weight"][:, 3] = state["1.weight"][1], state["1.bias"][1], state["3.weight"][:, 1]
    found = match_weights(spec, state, state)
    assert all(torch.equal(order, torch.arange(6)) for order in found.permutation.values())
    zero = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert match_weights(spec, zero, zero).cosine == 0.0


def test_the_same_call_gives_the_same_answer_and_leaves_its_arguments_alone():
    make = partial(build, "resnet")
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    copies = [{k: v.clone() for k, v in s.items()} for s in (a, b)]
    first, second = match_weights(spec, a, b), match_weights(spec, a, b)
    assert all(torch.equal(first.permutation[g], second.permutation[g]) for g in spec.groups)
    assert all(torch.equal(s[k], c[k]) for s, c in zip((a, b), copies) for k in s)


def test_permuting_the_input_of_matching_permutes_its_answer():
    make = partial(build, "resnet")
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    shuffled = permute(spec, spec.random(torch.Generator().manual_seed(7)), b)
    direct, roundabout = match_weights(spec, a, b), match_weights(spec, a, shuffled)
    same = permute(spec, direct.permutation, b), permute(spec, roundabout.permutation, shuffled)
    assert all(torch.equal(same[0][name], same[1][name]) for name in b)


def test_a_warm_start_that_is_right_takes_one_sweep():
    make = partial(build, "resnet", width=6, blocks=(2, 2))
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    found = match_weights(spec, a, b)
    again = match_weights(spec, a, b, init=found.permutation)
    assert again.sweeps == 1 and again.objective == found.objective


def test_bad_input_is_named(make_mlp):
    spec, state = infer_spec(make_mlp(), IMAGE), state_of(make_mlp())
    with pytest.raises(ValueError, match="state_b: '1.weight' has the shape"):
        match_weights(spec, state, build("mlp", depth=2, width=9).state_dict())
    with pytest.raises(ValueError, match="state_b: '3.bias' has values that are not finite"):
        match_weights(spec, state, state | {"3.bias": torch.full((8,), torch.nan)})
    with pytest.raises(ValueError, match=r"init\['1'\]: a tensor of the numbers 0 to 7"):
        match_weights(spec, state, state, init=spec.identity() | {"1": torch.zeros(8, dtype=torch.long)})
    with pytest.raises(ValueError, match="order: 'backward' is not known"):
        match_weights(spec, state, state, order="backward")
    with pytest.raises(ValueError, match="method: 'weight' is not known; did you mean 'weights'"):
        align(make_mlp(), make_mlp(), IMAGE, method="weight")
    with pytest.raises(ValueError, match="shape"):
        align(make_mlp(), build("mlp", depth=2, width=9), IMAGE)


def test_a_spec_without_groups_matches_nothing():
    spec = PermutationSpec({}, {}, {"w": (2, 2)})
    found = match_weights(spec, {"w": torch.eye(2)}, {"w": torch.eye(2)})
    assert found.permutation == {} and found.objective == 2.0
