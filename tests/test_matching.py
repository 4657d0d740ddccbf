"""Matching: known answers are found, the objective never falls, and nothing depends on luck."""
from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from starlight_nb.data import Dataset, Split
from starlight_nb.matching.assignment import assign_group
from starlight_nb.matching.coordinate_descent import (
    Layout, coordinate_descent, inner_product, match_naively)
from starlight_nb.evaluation import midpoint_loss
from starlight_nb.matching import (
    Matcher, Matching, align, match, match_activations, match_jointly, match_many, match_weights,
    partial_spec)
from starlight_nb.models import build, initialise
from starlight_nb.permutation import PermutationSpec, compose, infer_spec, invert, permute
from starlight_nb.matching.tensor_descent import TensorDescent, Weights
from starlight_nb.training import state_of

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def random_state(make, seed):
    "A network with every parameter and statistic drawn at random."
    generator, state = torch.Generator().manual_seed(seed), state_of(initialise(make, seed))
    return {
        k: v + 0.1 * torch.rand(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in state.items()
    }


@pytest.mark.parametrize(
    "make",
    [partial(build, "mlp", depth=4, width=40), partial(build, "resnet", width=6, blocks=(2, 2, 2))],
    ids=["mlp", "resnet"],
)
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
        best = max(
            inner_product(a, permute(spec, {group: torch.tensor(p)}, b), names)
            for p in permutations(range(size))
        )
        assert match_weights(spec, a, b).objective == pytest.approx(best, rel=1e-12)


def test_with_two_groups_no_single_group_can_be_improved():
    make = partial(build, "mlp", depth=2, width=3)
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    names, found = [name for name, _ in make().named_parameters()], match_weights(spec, a, b)
    for group, order in product(spec.groups, permutations(range(3))):
        other = found.permutation | {group: torch.tensor(order)}
        assert inner_product(a, permute(spec, other, b), names) <= found.objective + 1e-9


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_the_objective_never_falls_and_is_what_it_says(order):
    make = partial(build, "resnet", width=6, blocks=(2, 1))
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, s) for s in (0, 1))
    found = match_weights(spec, a, b, order=order, seed=3)
    assert all(x <= y for x, y in zip(found.history, found.history[1:]))
    assert found.history[-1] > found.history[0]
    steps = found.to_frame()
    assert steps.objective.iloc[-1] == pytest.approx(found.objective, rel=1e-7)
    assert (steps["units moved"] > 0).all()
    names = [name for name, _ in make().named_parameters()]
    assert inner_product(a, permute(spec, found.permutation, b), names) == pytest.approx(
        found.objective, rel=1e-12
    )


@pytest.mark.parametrize("layers_before", [0, 2])
def test_one_tensor_with_one_group_on_both_axes(layers_before):
    """A residual layer x + Wx makes the objective quadratic in one permutation; it must still never
    fall."""

    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Sequential(
                *[nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(layers_before)]
            )
            self.first, self.inner, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(self.before(x)).relu()
            return self.last(x + self.inner(x))

    spec = infer_spec(Stream(), torch.randn(2, 5))
    assert list(spec.groups.values()) == [5] * layers_before + [8]
    for seed in range(20):
        a, b = random_state(Stream, seed), random_state(Stream, seed + 100)
        for order in ("forward", "backward", "random"):
            found = match_weights(spec, a, b, order=order)
            assert all(x <= y + 1e-12 for x, y in zip(found.history, found.history[1:]))
        moved = permute(spec, spec.random(torch.Generator().manual_seed(seed)), a)
        assert match_weights(spec, a, moved).cosine == pytest.approx(1, abs=1e-12)


def test_equal_and_identical_units_stay_where_they_are():
    make = partial(build, "mlp", depth=2, width=6)
    spec, state = infer_spec(make(), IMAGE), random_state(make, 0)
    state["1.weight"][3], state["1.bias"][3], state["3.weight"][:, 3] = (
        state["1.weight"][1],
        state["1.bias"][1],
        state["3.weight"][:, 1],
    )
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
    assert again.sweeps == 1 and again.objective == pytest.approx(found.objective, rel=1e-12)


def test_bad_input_is_named(make_mlp):
    spec, state = infer_spec(make_mlp(), IMAGE), state_of(make_mlp())
    with pytest.raises(ValueError, match="state_b: '1.weight' has the shape"):
        match_weights(spec, state, build("mlp", depth=2, width=9).state_dict())
    with pytest.raises(ValueError, match="state_b: '3.bias' has values that are not finite"):
        match_weights(spec, state, state | {"3.bias": torch.full((8,), torch.nan)})
    with pytest.raises(ValueError, match=r"init\['1'\]: a tensor of the numbers 0 to 7"):
        match_weights(
            spec, state, state, init=spec.identity() | {"1": torch.zeros(8, dtype=torch.long)}
        )
    with pytest.raises(ValueError, match="order: 'sideways' is not known"):
        match_weights(spec, state, state, order="sideways")
    with pytest.raises(ValueError, match="restarts: a whole number of at least 0 is needed, not -1"):
        match_weights(spec, state, state, restarts=-1)
    with pytest.raises(ValueError, match="model, data: the midpoint's loss needs both"):
        match_weights(spec, state, state, model=make_mlp())
    with pytest.raises(ValueError, match=r"states_b\[1\]: '3.bias' has values that are not finite"):
        match_many(spec, state, [state, state | {"3.bias": torch.full((8,), torch.nan)}])
    with pytest.raises(ValueError, match="init: 2 permutations are needed, not 1"):
        match_many(spec, state, [state, state], init=[spec.identity()])
    with pytest.raises(ValueError, match=r"states_b\[0\]: the tensor '5.bias' is missing: only the spec of the model has it"):
        Matcher(spec, [{name: tensor for name, tensor in state.items() if name != "5.bias"}])
    with pytest.raises(ValueError, match="states: at least two networks are needed, not 1"):
        match_jointly(spec, [state])
    with pytest.raises(ValueError, match="method: 'weight' is not known; did you mean 'weights'"):
        align(make_mlp(), make_mlp(), IMAGE, method="weight")
    with pytest.raises(ValueError, match=r"model_b: '1.weight' has the shape \(9, 64\)"):
        align(make_mlp(), build("mlp", depth=2, width=9), IMAGE)


def test_a_spec_without_groups_matches_nothing():
    spec = PermutationSpec({}, {}, {"w": (2, 2)})
    found = match_weights(spec, {"w": torch.eye(2)}, {"w": torch.eye(2)})
    assert found.permutation == {} and found.objective == 2.0


class Residual(nn.Module):
    def __init__(self, stream, inner):
        super().__init__()
        self.up, self.down = nn.Linear(stream, inner), nn.Linear(inner, stream)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


@pytest.mark.parametrize("blocks, stream, inner, count", [(6, 30, 50, 100), (8, 64, 128, 40)])
def test_planted_permutations_of_deep_residual_networks(blocks, stream, inner, count):
    "A family in which descent in random order is known to fail."
    make = lambda: nn.Sequential(
        nn.Linear(10, stream),
        *[Residual(stream, inner) for _ in range(blocks)],
        nn.Linear(stream, 3),
    )
    spec, found = infer_spec(make(), torch.randn(2, 10)), 0
    for seed in range(count):
        state = state_of(initialise(make, seed))
        planted = spec.random(torch.Generator().manual_seed(seed))
        answer = match_weights(spec, state, permute(spec, planted, state)).permutation
        found += all(torch.equal(answer[g], invert(planted)[g]) for g in spec.groups)
    assert found == count


@pytest.mark.parametrize("name, expected", [("resnet18", 0.06714), ("vgg11", 0.05133)])
def test_random_order_from_the_original_order_ends_where_others_do(name, expected):
    """Four implementations reach this cosine of the weights, with seeds 0 and 1 and sweeps seeded
    with 0."""

    def make(seed):
        torch.manual_seed(seed)
        model = build(name)
        for module in model.modules() if name == "vgg11" else ():
            if isinstance(module, nn.Conv2d):
                module.weight.data.normal_(0, (2 / (9 * module.out_channels)) ** 0.5)
        return model

    spec = infer_spec(make(0), torch.randn(2, 3, 32, 32))
    a = state_of(make(0))
    b = state_of(make(1))
    names = [name for name, tensor in a.items() if tensor.ndim > 1]
    scale = (inner_product(a, a, names) * inner_product(b, b, names)) ** 0.5
    known = permute(spec, match_weights(spec, a, b, order="random", seed=0).permutation, b)
    assert round(inner_product(a, known, names) / scale, 5) == expected
    ours = permute(spec, match_weights(spec, a, b).permutation, b)
    assert inner_product(a, ours, names) / scale > expected


@pytest.mark.parametrize("order", ["forward", "random"])
@pytest.mark.parametrize("threads", [1, 2])
def test_many_at_once_are_one_after_the_other(order, threads):
    make = partial(build, "resnet", width=4, blocks=(2, 1))
    spec, (a, *others) = infer_spec(make(), IMAGE), (random_state(make, s) for s in range(8))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try: together = match_many(spec, a, others, order=order, seed=2)
    finally: torch.set_num_threads(before)
    for one, other in zip(together, others):
        alone = match_weights(spec, a, other, order=order, seed=2)
        assert all(torch.equal(one.permutation[g], alone.permutation[g]) for g in spec.groups)
        assert one.objective == pytest.approx(alone.objective, rel=1e-12)
        assert one.sweeps == alone.sweeps
    assert match_many(spec, a, []) == []


@pytest.mark.parametrize("place, original, when", [
    ("starlight_nb.matching.tensor_descent.TensorDescent.solve", TensorDescent.solve, 5),
    ("starlight_nb.matching.weights.Matching", Matching, 1)], ids=["within", "after the descent"])
def test_a_match_that_is_interrupted_leaves_the_matcher_as_it_was(
        place, original, when, monkeypatch):
    "Its networks are in a known order again, and the next match finds what it would have found."
    make = partial(build, "resnet", width=4, blocks=(2, 1))
    spec, (a, *others) = infer_spec(make(), IMAGE), (random_state(make, s) for s in range(4))
    matcher, untouched = Matcher(spec, others), Matcher(spec, others)
    calls = iter(range(100))

    def interrupted(*arguments):
        if next(calls) == when: raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(place, interrupted)
        with pytest.raises(KeyboardInterrupt): matcher.match(a)
    for one, other in zip(matcher.match(a), untouched.match(a)):
        assert all(torch.equal(one.permutation[g], other.permutation[g]) for g in spec.groups)
        assert one.objective == pytest.approx(other.objective, rel=1e-12)


def test_counters_that_became_floats_are_not_matched():
    "Some tools store all tensors of a state as floats."
    make = partial(build, "resnet", width=4, blocks=(2, 1))
    spec, a, b = infer_spec(make(), IMAGE), random_state(make, 0), random_state(make, 1)
    def floats(state): return {name: tensor.float() for name, tensor in state.items()}
    expected = match_weights(spec, a, b)
    matcher = Matcher(spec, [b])
    for found in (match_weights(spec, a, floats(b)), match_weights(spec, floats(a), b),
                  *match_many(spec, a, [floats(b)]), *matcher.match(floats(a)),
                  *Matcher(spec, [floats(b)]).match(a)):
        assert all(torch.equal(found.permutation[g], expected.permutation[g]) for g in spec.groups)


def test_a_matcher_keeps_its_permutations_and_works_in_and_out_of_inference_mode():
    make = partial(build, "mlp", depth=2, width=12)
    spec, (a, *others) = infer_spec(make(), IMAGE), (random_state(make, s) for s in range(4))
    with torch.inference_mode():
        matcher = Matcher(spec, others)
        inside = matcher.match(a)
    outside = Matcher(spec, others)
    given = [{g: order.clone() for g, order in one.permutation.items()} for one in inside]
    outside.resume(given)
    for permutation in given:
        for order in permutation.values(): order.zero_()  # the caller's own tensors
    for one, other in zip(matcher.match(a), outside.match(a)):
        assert all(torch.equal(one.permutation[g], other.permutation[g]) for g in spec.groups)
        assert one.objective == other.objective


def test_a_matcher_follows_a_network_that_moves():
    make = partial(build, "resnet", width=4, blocks=(2, 1))
    spec, (a, *others) = infer_spec(make(), IMAGE), (random_state(make, s) for s in range(4))
    matcher, generator = Matcher(spec, others), torch.Generator().manual_seed(0)
    last = matcher.match(a)
    for _ in range(5):
        with torch.no_grad():  # in place, as training does
            for tensor in a.values():
                tensor += (
                    0.1 * torch.rand(tensor.shape, generator=generator)
                    if tensor.is_floating_point()
                    else 0
                )
        direct = match_many(spec, a, others, init=[matching.permutation for matching in last])
        last = matcher.match(a)
        for one, other in zip(last, direct):
            assert all(torch.equal(one.permutation[g], other.permutation[g]) for g in spec.groups)
            assert one.objective == pytest.approx(other.objective, rel=1e-9)
    assert not any(matching.steps for matching in matcher.match(a)), "nothing has changed"


@pytest.mark.parametrize("kind", [torch.half, torch.bfloat16, torch.float, torch.double])
def test_weights_of_any_precision(kind):
    make = partial(build, "mlp", depth=2, width=12)
    spec = infer_spec(make(), IMAGE)
    state = {k: v.to(kind) for k, v in random_state(make, 0).items()}
    planted = spec.random(torch.Generator().manual_seed(1))
    found = match_weights(spec, state, permute(spec, planted, state))
    assert all(torch.equal(found.permutation[g], invert(planted)[g]) for g in spec.groups)
    assert found.cosine == pytest.approx(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_as_on_a_cpu():
    make = partial(build, "resnet", width=16, blocks=(2, 2))
    spec, states = infer_spec(make(), IMAGE), [random_state(make, s) for s in range(3)]
    there = [{k: v.cuda() for k, v in state.items()} for state in states]
    for one, other in zip(
        match_many(spec, states[0], states[1:]), match_many(spec, there[0], there[1:])
    ):
        assert all(torch.equal(one.permutation[g], other.permutation[g].cpu()) for g in spec.groups)
    assert permute(spec, one.permutation, there[1])["stem.0.weight"].is_cuda


def test_identical_units_of_both_networks_stay_in_order():
    make = partial(build, "mlp", depth=2, width=6)
    spec = infer_spec(make(), IMAGE)
    state = {k: torch.ones_like(v) for k, v in random_state(make, 0).items()}
    for order in ("forward", "random"):
        found = match_weights(spec, state, state, order=order)
        assert all(torch.equal(own, torch.arange(6)) for own in found.permutation.values())
        assert not found.steps


def test_restarts_keep_the_best_by_objective_or_by_midpoint(digits, solutions, make_mlp):
    spec, (a, b, _) = infer_spec(make_mlp(), IMAGE), solutions
    alone = [
        match_weights(spec, a, b),
        *(match_weights(spec, a, b, order="random", seed=5 + i) for i in (0, 1, 2)),
    ]
    best = match_weights(spec, a, b, restarts=3, seed=4)
    assert best.objective == max(matching.objective for matching in alone)
    middle = lambda matching: midpoint_loss(
        make_mlp(), a, permute(spec, matching.permutation, b), digits
    )
    chosen = match_weights(spec, a, b, restarts=3, seed=4, model=make_mlp(), data=digits)
    assert middle(chosen) == min(map(middle, alone))


def test_several_networks_share_one_order():
    make = partial(build, "resnet", width=4, blocks=(1, 1))
    spec, state = infer_spec(make(), IMAGE), random_state(partial(build, "resnet", width=4), 0)
    planted = [spec.random(torch.Generator().manual_seed(seed)) for seed in range(4)]
    found = match_jointly(spec, [permute(spec, p, state) for p in planted])
    assert found.cosine == pytest.approx(1)
    for i, j in product(range(4), repeat=2):
        assert all(
            torch.equal(found.between(i, j)[g], compose(planted[i], invert(planted[j]))[g])
            for g in spec.groups
        )


def test_activations_do_not_depend_on_batches_and_bear_dead_units(digits, solutions, make_mlp):
    spec, (a, b, _) = infer_spec(make_mlp(), IMAGE), solutions
    dead = a | {"1.weight": a["1.weight"].clone(), "1.bias": a["1.bias"].clone()}
    dead["1.weight"][2], dead["1.bias"][2] = 0, 0.3
    some = Dataset("some", Split(digits.train.x[:300], digits.train.y[:300]), digits.test)
    one, other = (
        match_activations(spec, dead, b, model=make_mlp(), data=some, batch_size=size)
        for size in (7, 300)
    )
    assert all(torch.equal(one.permutation[g], other.permutation[g]) for g in spec.groups)
    order = one.permutation["1"]
    assert order.sort().values.tolist() == list(range(8)), "the dead unit has a place too"


@pytest.mark.parametrize("correlate", [True, False])
def test_activations_are_compared_by_correlations_or_by_inner_products(
    correlate, digits, solutions, make_mlp
):
    "The first hidden layer by hand, with SciPy's assignment."
    spec, (a, b, _) = infer_spec(make_mlp(), IMAGE), solutions
    given = dict(model=make_mlp(), data=digits)
    found = match("activations", spec, a, b, correlate=correlate, **given).permutation["1"]
    images = digits.train.x.flatten(1).double()
    of_a, of_b = ((images @ own["1.weight"].T.double() + own["1.bias"]).numpy() for own in (a, b))
    similar = {True: np.corrcoef(of_a.T, of_b.T)[:8, 8:], False: of_a.T @ of_b}
    wanted = {kind: linear_sum_assignment(-own)[1].tolist() for kind, own in similar.items()}
    assert found.tolist() == wanted[correlate] != wanted[not correlate]


def test_the_partial_spec_is_a_part():
    model, other = (initialise(partial(build, "resnet18", width=4), seed) for seed in (0, 1))
    x = torch.randn(2, 3, 16, 16)
    spec = infer_spec(model, x)
    some = partial_spec(spec, model, x)
    assert set(spec.groups) - set(some.groups) == {"blocks.6.conv2"}
    assert "released code" in some.pinned["blocks.6.conv2"]
    a, b = state_of(model), state_of(other)
    moved = {
        is_partial: permute(own, match_weights(own, a, b).permutation, b)
        for is_partial, own in ((True, some), (False, spec))
    }
    assert any(not torch.equal(moved[True][name], moved[False][name]) for name in b)
    for is_partial, wanted in moved.items():
        aligned = align(model, other, x, partial=is_partial).state_dict()
        assert all(torch.equal(aligned[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    "name,options,example",
    [
        ("mlp", dict(depth=3, width=9), IMAGE),
        ("resnet", dict(width=4, blocks=(2, 1)), IMAGE),
        ("vgg11", dict(width=4), torch.randn(2, 3, 32, 32)),
        ("densenet40", dict(depth=10, growth=4), torch.randn(2, 3, 32, 32)),
        ("wideresnet", dict(depth=10, width=1), torch.randn(2, 3, 32, 32)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("order", ["forward", "random"])
def test_similarities_that_are_kept_lead_where_fresh_ones_lead(name, options, example, order):
    make = partial(build, name, **options)
    spec, (a, other) = infer_spec(make(), example), (random_state(make, seed) for seed in (0, 1))
    names = [
        key for key, value in a.items() if key not in spec.buffers and value.is_floating_point()
    ]
    kept, fresh = Layout(spec), Layout(spec)
    fresh.incremental = set()
    found = []
    for layout in (kept, fresh):
        weights = [Weights({key: state[key] for key in names}, torch.double, torch.device("cpu"))
                   for state in (a, other)]
        descent = TensorDescent(layout, *weights, new=True)
        coordinate_descent(descent, order, 5, 100, first=order == "forward")
        descent.waiting = set(layout.families)
        coordinate_descent(descent, order, 6, 100, first=False)
        found.append(descent)
    one, other = found
    assert all((one.moved[group] == other.moved[group]).all() for group in spec.groups)
    assert [step[:2] for step in one.steps] == [step[:2] for step in other.steps] and one.steps
    assert one.start + one.gained == pytest.approx(other.start + other.gained, rel=1e-12)


@pytest.mark.parametrize("make", [
    partial(build, "mlp", depth=3, width=20), partial(build, "mlp", depth=2, width=400),
    partial(build, "resnet", width=6, blocks=(2, 1))], ids=["mlp", "wide mlp", "resnet"])
@pytest.mark.parametrize("seed", range(3))
def test_the_fast_descents_find_what_the_naive_one_finds(make, seed):
    "The wide MLP is large enough for the layout tensor by tensor."
    spec, (a, b) = infer_spec(make(), IMAGE), (random_state(make, seed + s) for s in (0, 1))
    a, b = ({key: x.double() if x.is_floating_point() else x for key, x in s.items()} for s in (a, b))
    naive, _ = match_naively(spec, a, b, seed)
    found = match_weights(spec, a, b, order="random", seed=seed).permutation
    assert all(torch.equal(found[group], naive[group]) for group in spec.groups)


def similar(kind, units, generator):
    "Similarities of one of several kinds, (units, units)."
    draw = partial(torch.randn, generator=generator)
    dense = draw(units, units)
    return {
        "random": dense,
        "few directions": draw(units, 3) @ draw(3, units),
        "few values": dense.round(),
        "with dead units": dense * (draw(units, 1) > 0) * (draw(1, units) > 0),
        "far from zero": dense + 1e4,
        "large": dense * 1e30,
        "small": dense * 1e-30,
        "equal": torch.zeros(units, units),
    }[kind]


@pytest.mark.parametrize("kind", [
    "random", "few directions", "few values", "with dead units", "far from zero", "large",
    "small", "equal"])
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("solved", [False, True])
def test_whatever_the_prices_the_best_order_is_found(kind, dtype, new, solved):
    "As valuable as the one that SciPy finds, also where the present order is the best one."
    generator = torch.Generator().manual_seed(0)
    for units in (1, 2, 5, 40):
        S = similar(kind, units, generator).to(dtype)
        if solved: S = S[:, linear_sum_assignment(S.double(), maximize=True)[1]]
        exact = S.double().numpy()
        best = exact[linear_sum_assignment(exact, maximize=True)].sum()
        prices = None if new else S.new_zeros(units)
        for _ in range(3):
            order, gain, found = assign_group(S, prices)
            value = exact[np.arange(units), order].sum()
            size = float(S.abs().max()) * units
            assert value == pytest.approx(best, abs=1e-5 * size, rel=1e-9)
            assert gain == pytest.approx(value - exact.trace(), abs=1e-9 * size)
            assert found.dtype == dtype
            prices = torch.randn(units, generator=generator).to(dtype) * S.abs().max()
    with pytest.raises(ValueError, match="not finite"):
        assign_group(S - torch.inf * torch.eye(units, dtype=dtype), prices)


@pytest.mark.parametrize("factor", [1e25, 1e-25])
@pytest.mark.parametrize("width", [12, 400], ids=["small", "large"])
def test_products_beyond_single_precision_are_an_error_or_computed_in_double(factor, width):
    make = partial(build, "mlp", depth=2, width=width)
    spec, a, b = infer_spec(make(), IMAGE), random_state(make, 0), random_state(make, 1)
    far = [{key: factor * x for key, x in state.items()} for state in (a, b)]
    double = [{key: x.double() for key, x in state.items()} for state in far]
    expected = match_weights(spec, a, b).cosine
    assert match_weights(spec, *double).cosine == pytest.approx(expected)
    matcher = Matcher(spec, [far[1]])
    with pytest.raises(ValueError, match="give states in double precision"): matcher.match(far[0])
    if width == 12: assert match_weights(spec, *far).cosine == pytest.approx(expected)
    else:
        with pytest.raises(ValueError, match="give states in double precision"):
            match_weights(spec, *far)


def test_under_autocast_matching_is_the_same():
    make = partial(build, "mlp", depth=3, width=20)
    spec, a, b = infer_spec(make(), IMAGE), random_state(make, 0), random_state(make, 1)
    expected = match_weights(spec, a, b).objective, Matcher(spec, [b]).match(a)[0].objective
    with torch.autocast("cpu", torch.bfloat16):
        found = match_weights(spec, a, b).objective, Matcher(spec, [b]).match(a)[0].objective
    assert found == expected


@pytest.mark.parametrize("numbers, error", [
    ([5], "numbers: a whole number of at least 0 and at most 1 is needed, not 5"), ([-1], "numbers: a whole number"),
    ([1.0], "numbers: a whole number"), ([0, 1, 0], "numbers: each network once is needed")])
def test_numbers_of_networks_are_checked(numbers, error):
    make = partial(build, "mlp", depth=2, width=6)
    spec, a, *others = infer_spec(make(), IMAGE), *(random_state(make, s) for s in range(3))
    matcher = Matcher(spec, others)
    with pytest.raises(ValueError, match=error): matcher.match(a, numbers)
    assert len(matcher.match(a, np.array([1]))) == 1


def test_a_first_sweep_that_is_undone_leaves_only_steps_that_moved_something():
    make = partial(build, "mlp", depth=3, width=12)
    spec, undone = infer_spec(make(), IMAGE), 0
    for seed in range(40):
        a, noise = random_state(make, seed), random_state(make, 100 + seed)
        b = {key: x + 1.5 * noise[key] for key, x in a.items()}
        found = match_weights(spec, a, b)
        undone += any(gain < 0 for _, _, gain in found.steps)
        assert all(moved > 0 for _, moved, _ in found.steps)
        assert found.history == sorted(found.history)
    assert undone


@pytest.mark.parametrize("width", [6, 250], ids=["small", "large"])
def test_a_matcher_matches_only_those_it_is_asked_for(width):
    make = partial(build, "mlp", depth=3, width=width)
    spec, (a, c, *others) = infer_spec(make(), IMAGE), [random_state(make, s) for s in range(7)]
    matcher, starts = Matcher(spec, others), [None] * len(others)
    for state, numbers in ((a, [0, 3]), (c, [3, 1]), (a, [4]), (c, [0, 1, 3])):
        for n, one in zip(numbers, matcher.match(state, numbers), strict=True):
            alone = match_weights(spec, state, others[n], init=starts[n])
            assert all(torch.equal(one.permutation[g], alone.permutation[g]) for g in spec.groups)
            assert one.objective == pytest.approx(alone.objective, rel=1e-12)
            starts[n] = one.permutation
    names = [name for name in a if name.endswith("weight")]
    size = sum(a[name].numel() for name in names)
    rows = torch.zeros(len(others), size)
    matcher.write(rows, [2, 3], names)
    for n in (2, 3):
        moved = permute(spec, starts[n] or spec.identity(), others[n])
        assert torch.equal(rows[n], torch.cat([moved[name].flatten() for name in names]))
    assert not rows[[0, 1, 4]].any() and matcher.match(a, []) == []
