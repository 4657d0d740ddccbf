"""Matching by gradient descent: known answers, gradients, clear errors, and nothing changed or left
to luck."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from starlight_nb.data import Dataset, Split
from starlight_nb.matching.coordinate_descent import Layout
from starlight_nb.evaluation import midpoint_loss
from starlight_nb.models import build, generator, initialise
from starlight_nb.permutation import check_permutation, infer_spec, permute
from starlight_nb.matching import match_sinkhorn, match_straight_through
from starlight_nb.matching.sinkhorn import batch_loss, sinkhorn, soft_permute
from starlight_nb.training import state_of
from starlight_nb.matching import match_weights
from starlight_nb.matching.weights import matched_names

IMAGE = torch.randn(2, 1, 8, 8, generator=generator(0, "image"))
MAKES = {
    "mlp": partial(build, "mlp", depth=2, width=12),
    "resnet": partial(build, "resnet", width=4),
}


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.top = nn.Embedding(30, 12), nn.Linear(12, 2)
        self.layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)

    def forward(self, tokens):
        return self.top(self.layer(self.words(tokens)).mean(1))


class Odd(nn.Module):
    """Two groups side by side, flattened images, a group on both axes of one weight, a
    normalisation that stays, a tied weight."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.inner, self.last = nn.Linear(7 * 64, 6), nn.Linear(6, 6), nn.Linear(6, 10)
        self.again, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(10)
        self.again.weight = self.inner.weight

    def forward(self, x):
        x = self.first(torch.cat([self.left(x), self.right(x)], 1).relu().flatten(1)).relu()
        x = x + self.inner(x).relu()
        return self.norm(self.last(x + self.again(x).relu()))


def random_state(make, seed):
    "A network with every parameter and statistic drawn at random."
    state, rng = state_of(initialise(make, seed)), generator(seed, "values")
    moved = {
        k: v + 0.1 * torch.rand(v.shape, generator=rng) if v.is_floating_point() else v
        for k, v in state.items()
    }
    return moved | {"again.weight": moved["inner.weight"]} if "again.weight" in moved else moved


def planted(make, example, seed=0):
    "A spec, a state, and the state with its units in another order."
    spec, state = infer_spec(make(), example), random_state(make, seed)
    return spec, state, permute(spec, spec.random(generator(seed, "planted")), state)


def recovered(spec, state, moved, found):
    check_permutation(spec, found.permutation)
    return all(
        torch.equal(tensor, state[name])
        for name, tensor in permute(spec, found.permutation, moved).items()
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", MAKES)
def test_a_planted_permutation_is_recovered(name, seed, digits):
    own = planted(MAKES[name], IMAGE, seed)
    assert recovered(*own, match_sinkhorn(*own, steps=100))
    assert recovered(*own, match_straight_through(*own, model=MAKES[name](), data=digits, steps=5))


@pytest.mark.parametrize("cost", ["midpoint", "random"])
def test_a_start_at_the_planted_permutation_stays_there(cost, digits):
    spec, state, moved = planted(MAKES["mlp"], IMAGE)
    init = match_weights(spec, state, moved).permutation
    given = dict(model=MAKES["mlp"](), data=digits)
    assert recovered(
        spec,
        state,
        moved,
        match_sinkhorn(spec, state, moved, init=init, steps=5, lr=0.01, cost=cost, **given),
    )
    assert recovered(
        spec, state, moved, match_straight_through(spec, state, moved, init=init, steps=5, **given)
    )


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float, torch.double])
def test_every_precision_is_matched(dtype):
    spec, state, moved = planted(MAKES["mlp"], IMAGE)
    state, moved = (
        {name: tensor.to(dtype) for name, tensor in own.items()} for own in (state, moved)
    )
    assert recovered(spec, state, moved, match_sinkhorn(spec, state, moved, steps=100))


def test_heads_and_the_units_in_them_are_matched_with_the_rest():
    tokens = Split(
        torch.randint(0, 30, (40, 7), generator=generator(0, "tokens")), torch.arange(40) % 2
    )
    data, own = Dataset("tokens", tokens, tokens), planted(Text, tokens.x[:2])
    assert own[0].blocks
    assert recovered(*own, match_sinkhorn(*own))
    assert recovered(*own, match_straight_through(*own, model=Text(), data=data, steps=3))
    check_permutation(
        own[0],
        match_sinkhorn(
            *own,
            cost="random",
            model=Text(),
            data=data,
            steps=3,
            init=own[0].random(generator(1, "init")),
        ).permutation,
    )


def test_concatenated_flattened_shared_and_tied_axes(digits):
    own = planted(Odd, IMAGE)
    spec, state, _ = own
    assert len(spec.groups) == 3 and "norm.running_mean" not in spec.axes
    order = spec.random(generator(0, "order"))
    soft = soft_permute(
        Layout(spec), {group: torch.eye(len(o))[o] for group, o in order.items()}, state
    )
    hard = permute(spec, order, state)
    assert all(torch.allclose(soft[name], hard[name]) for name in matched_names(spec, state))
    assert recovered(*own, match_sinkhorn(*own))
    other = random_state(Odd, 1)
    check_permutation(
        spec,
        match_sinkhorn(
            spec, state, other, cost="midpoint", model=Odd(), data=digits, steps=3
        ).permutation,
    )
    check_permutation(
        spec,
        match_straight_through(spec, state, other, model=Odd(), data=digits, steps=3).permutation,
    )


@pytest.mark.parametrize("name", MAKES)
def test_gradients_reach_every_group(name, digits):
    spec, a, b = planted(MAKES[name], IMAGE)
    layout, loss = Layout(spec), batch_loss(MAKES[name](), a)
    free = {
        group: (0.1 * torch.randn(n, n, generator=generator(0, group))).requires_grad_()
        for group, n in spec.groups.items()
    }
    soft = soft_permute(layout, {group: sinkhorn(x) for group, x in free.items()}, b)
    parameters = [n for n, _ in MAKES[name]().named_parameters()]
    loss(
        {n: torch.lerp(a[n], soft[n], 0.5) for n in parameters},
        digits.train.x[:50],
        digits.train.y[:50],
    ).backward()
    assert all(x.grad.abs().max() > 0 for x in free.values())


def test_the_gradient_of_a_soft_permutation_is_exact():
    spec, state, _ = planted(partial(build, "mlp", depth=2, width=3), IMAGE)
    layout, state = Layout(spec), {name: tensor.double() for name, tensor in state.items()}

    def moved(*free):
        soft = soft_permute(
            layout, {group: sinkhorn(x, 5) for group, x in zip(spec.groups, free)}, state
        )
        return tuple(soft[name] for name in matched_names(spec, state))

    free = [
        torch.randn(3, 3, generator=generator(i, "free"), dtype=torch.double, requires_grad=True)
        for i in range(2)
    ]
    assert torch.autograd.gradcheck(moved, free)


@pytest.mark.parametrize("name", MAKES)
def test_straight_through_is_never_worse_than_its_start(name, digits):
    make = MAKES[name]
    spec, a, b = infer_spec(make(), IMAGE), random_state(make, 0), random_state(make, 1)
    left = lambda permutation: midpoint_loss(make(), a, permute(spec, permutation, b), digits)
    start = spec.random(generator(0, "start"))
    given = dict(model=make(), data=digits, steps=20, every=7)
    assert left(match_straight_through(spec, a, b, **given).permutation) <= left(
        match_weights(spec, a, b).permutation
    )
    assert left(match_straight_through(spec, a, b, init=start, **given).permutation) < left(start)


@pytest.mark.parametrize(
    "match",
    [match_sinkhorn, partial(match_sinkhorn, cost="random"), match_straight_through],
    ids=["distance", "random", "straight-through"],
)
def test_the_same_seed_gives_the_same_answer_and_nothing_is_changed(match, digits):
    make = MAKES["resnet"]
    model = make().train()
    spec = infer_spec(make(), IMAGE)
    a = random_state(make, 0)
    b = random_state(make, 1)
    given = {
        "state_a": a,
        "state_b": b,
        "init": spec.random(generator(0, "init")),
        "model": model.state_dict(),
    }
    before, state = copy.deepcopy(given), torch.get_rng_state()
    found = [
        match(spec, a, b, init=init, model=model, data=digits, steps=8, seed=3)
        for init in (None, None, given["init"])
    ]
    assert all(
        torch.equal(order, found[1].permutation[group])
        for group, order in found[0].permutation.items()
    )
    assert found[0].objective == found[1].objective == found[0].history[-1]
    assert all(
        torch.equal(tensor, before[argument][name])
        for argument, own in given.items()
        for name, tensor in own.items()
    )
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_permute(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.warns(UserWarning, match="nothing to permute"):
        spec = infer_spec(model, IMAGE)
    state = state_of(model)
    for found in (
        match_sinkhorn(spec, state, state),
        match_sinkhorn(spec, state, state, init={}, cost="random", model=model, data=digits),
        match_straight_through(spec, state, state, model=model, data=digits),
    ):
        assert found.permutation == {} and found.cosine == pytest.approx(1)


def test_clear_errors(digits):
    make = MAKES["mlp"]
    spec, a, b = planted(make, IMAGE)
    both, given = (match_sinkhorn, match_straight_through), dict(model=make(), data=digits)
    for match in both:
        def fails(error, message, state_b=b, **options):
            with pytest.raises(error, match=message):
                match(spec, a, state_b, **given | options)
        fails(ValueError, "^data: the loss needs both", data=None)
        fails(ValueError, "^model: the loss needs both", model=None)
        fails(ValueError, "data: a Dataset", data=[1, 2])
        fails(
            ValueError,
            "state_b: .* has the shape",
            state_b=state_of(build("mlp", depth=2, width=8)),
        )
        fails(ValueError, "state_b: .* not finite", state_b={k: v / 0 for k, v in b.items()})
        fails(ValueError, "model: .* has the shape", model=build("mlp", depth=2, width=8))
        fails(ValueError, r"init\['1'\]: a tensor of the numbers 0 to 11 in some order", init={})
        fails(ValueError, "steps: a whole number of at least 1", steps=0)
        fails(ValueError, "batch_size: a whole number of at least 1", batch_size=0)
        fails(ValueError, "lr: a number of at least 0", lr=-1)
    with pytest.raises(ValueError, match="cost: 'distanse' is not known; did you mean 'distance'"):
        match_sinkhorn(spec, a, b, cost="distanse")
    with pytest.raises(ValueError, match="model, data: the loss needs both a model and data"):
        match_sinkhorn(spec, a, b, cost="midpoint")
    with pytest.raises(ValueError, match="temperature: a number above 0"):
        match_sinkhorn(spec, a, b, temperature=float("nan"))
    with pytest.raises(ValueError, match="iterations: a whole number"):
        match_sinkhorn(spec, a, b, iterations=0)
    with pytest.raises(ValueError, match="every: a whole number"):
        match_straight_through(spec, a, b, every=0, **given)
    endless = Split(digits.train.x / 0, digits.train.y)
    for match in (match_straight_through, partial(match_sinkhorn, cost="random")):
        with pytest.raises(FloatingPointError, match="matching: the loss at step 0 is nan"):
            match(spec, a, b, model=make(), data=Dataset("endless", endless, endless))
