"""Starlight: its gradient, its special cases, and that it does what it is for."""
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from starlight_nb.runtime.store import Checkpoint
from starlight_nb.data import Dataset, Split
from starlight_nb.models import initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.matching import Matcher
from starlight_nb.star import SegmentDraws, Sources, StarObjective, StarOptions, train_star
from starlight_nb.training import Recipe, state_of, train


def double(data):
    return Dataset(data.name, *(Split(part.x.double(), part.y) for part in (data.train, data.test)))


def small_network():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("t", [0.0, 0.3, 0.75, 1.0])
def test_the_gradient_is_one_minus_t_times_that_of_the_interpolated_network(small, t):
    """One step without momentum moves the star by -lr times the gradient of what eq. 4 averages, as
    finite differences give it."""
    data, lr = double(small), 1e-3
    star, source = (initialise(small_network, seed) for seed in (0, 1))
    spec = infer_spec(star, data.train.x[:2])
    recipe = Recipe(
        epochs=1,
        batch_size=len(data.train),
        lr=lr,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
    )
    result = train_star(star, [state_of(source)], data, recipe, spec=spec, t_sampling=t)
    matched = permute(spec, result.permutations[0], state_of(source))

    def objective(state):
        point = {name: (1 - t) * value + t * matched[name] for name, value in state.items()}
        return F.cross_entropy(
            torch.func.functional_call(star, point, data.train.x), data.train.y
        ).item()

    start, step = state_of(star), 1e-6
    for name, tensor in start.items():
        gradient = (tensor - result.state[name]) / lr
        for index in range(tensor.numel()):
            nudge = torch.zeros_like(tensor).flatten()
            nudge[index] = step
            up, down = (
                objective(start | {name: tensor + sign * nudge.view_as(tensor)}) for sign in (1, -1)
            )
            assert gradient.flatten()[index].item() == pytest.approx(
                (up - down) / (2 * step), abs=1e-6
            )


def test_at_t_zero_it_is_plain_training_bit_for_bit(digits, recipe, solutions, make_mlp):
    start = initialise(make_mlp, 9)
    plain = train(start, digits, recipe, 4)
    star = train_star(start, solutions[:1], digits, recipe, t_sampling=0.0, seed=4).state
    assert all(torch.equal(plain[name], star[name]) for name in plain)


def test_weight_decay_acts_on_the_star_alone(small):
    "At t = 1 no gradient reaches the star, so one step only shrinks its weights."
    data, start = double(small), initialise(small_network, 0)
    recipe = Recipe(
        epochs=1,
        batch_size=len(data.train),
        lr=0.1,
        momentum=0.0,
        weight_decay=0.5,
        schedule="constant",
    )
    star = train_star(
        start, [state_of(initialise(small_network, 1))], data, recipe, t_sampling=1.0
    ).state
    for name, tensor in start.state_dict().items():
        torch.testing.assert_close(star[name], 0.95 * tensor)


def test_the_same_seed_gives_the_same_star_and_nothing_is_changed(
    digits, recipe, solutions, make_mlp
):
    start = initialise(make_mlp, 9)
    copies = [{k: v.clone() for k, v in s.items()} for s in solutions]
    first, again, other = (
        train_star(start, solutions, digits, recipe, seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first.state[k], again.state[k]) for k in first.state)
    assert first.loss == again.loss
    assert not torch.equal(first.state["1.weight"], other.state["1.weight"])
    assert all(torch.equal(s[k], c[k]) for s, c in zip(solutions, copies) for k in s)


def test_the_order_in_which_a_source_comes_does_not_matter(digits, recipe, solutions, make_mlp):
    "A source with its units shuffled is the same source."
    start = initialise(make_mlp, 9)
    spec = infer_spec(start, digits.train.x[:2])
    shuffled = [
        permute(spec, spec.random(torch.Generator().manual_seed(n)), s)
        for n, s in enumerate(solutions)
    ]
    plain, other = (train_star(start, s, digits, recipe, spec=spec) for s in (solutions, shuffled))
    assert all(torch.equal(plain.state[k], other.state[k]) for k in plain.state)


def test_permutations_bring_the_sources_to_the_star(digits, recipe, solutions, make_mlp):
    start = initialise(make_mlp, 9)
    spec = infer_spec(start, digits.train.x[:2])
    star = train_star(start, solutions, digits, recipe.replace(epochs=10), spec=spec)
    distance = lambda a, b: sum(((a[k] - b[k]) ** 2).sum() for k in a)
    for source, permutation in zip(solutions, star.permutations):
        assert distance(star.state, permute(spec, permutation, source)) < distance(
            star.state, source
        )


def test_matching_once_or_never_again(digits, recipe, solutions, make_mlp, monkeypatch):
    """How often the sources are matched in the three epochs and after them, and whether it makes a
    difference."""
    start, rematch, weights = initialise(make_mlp, 9), Sources.rematch, {}
    for rematch_every, expected in ((None, 0), (0, 1), (1, 4), (2, 3), (3, 2)):
        calls = []

        def counted(table, theta, numbers=None):
            calls.append(numbers)
            rematch(table, theta, numbers)

        monkeypatch.setattr(Sources, "rematch", counted)
        star = train_star(start, solutions, digits, recipe, rematch_every=rematch_every)
        weights[rematch_every] = star.state["1.weight"]
        assert len(calls) == expected, f"rematch_every={rematch_every}"
    assert torch.equal(weights[0], weights[3]) and not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("rematch_every", [0, 1, 2])
@pytest.mark.parametrize("make", ["mlp", "resnet"])
def test_a_killed_star_ends_with_the_same_bits(
    digits, solutions, make_mlp, tmp_path, rematch_every, make
):
    "Weights, losses, permutations and draws, wherever it was killed."
    from functools import partial

    from starlight_nb.models import build
    make = make_mlp if make == "mlp" else partial(build, "resnet", width=4)
    start = initialise(make, 9)
    part = Dataset("part", Split(digits.train.x[:300], digits.train.y[:300]), digits.test)
    sources = (
        solutions if make is make_mlp else [state_of(initialise(make, seed)) for seed in range(3)]
    )
    recipe = Recipe(epochs=5, batch_size=100, lr=0.05, augmentation="crop+flip", crop_padding=1)
    spec = infer_spec(start, digits.train.x[:2])
    options = dict(spec=spec, rematch_every=rematch_every, seed=2)
    checkpoint = Checkpoint(tmp_path / "star", every=0)
    whole = train_star(start, sources, part, recipe, **options)
    for batches in (4, 4, 5):  # of three an epoch; the second and third go on from what is there
        dying, left = initialise(make, 9), iter([None] * batches)
        dying.register_forward_pre_hook(lambda *_: next(left))
        with pytest.raises(StopIteration):
            train_star(dying, sources, part, recipe, checkpoint=checkpoint, **options)
        assert checkpoint.path.exists()
    again = train_star(start, sources, part, recipe, checkpoint=checkpoint, **options)
    assert whole.loss == again.loss
    assert all(torch.equal(whole.state[k], again.state[k]) for k in whole.state)
    assert all(
        torch.equal(one[g], other[g])
        for one, other in zip(whole.permutations, again.permutations)
        for g in spec.groups
    )
    assert not checkpoint.path.exists()
    for change in ({"t_sampling": "beta"}, {"rematch_every": 3}):
        dying, left = initialise(make, 9), iter([None] * 4)
        dying.register_forward_pre_hook(lambda *_: next(left))
        with pytest.raises(StopIteration):
            train_star(dying, sources, part, recipe, checkpoint=checkpoint, **options)
        with pytest.warns(
            UserWarning, match=f"it holds another configuration: {list(change)[0]} differs"
        ):
            train_star(start, sources, part, recipe, checkpoint=checkpoint, **options | change)


def test_bad_input_is_named(digits, recipe, solutions, make_mlp):
    start = initialise(make_mlp, 0)
    with pytest.raises(ValueError, match="sources: at least one trained state"):
        train_star(start, [], digits, recipe)
    with pytest.raises(ValueError, match=r"sources\[1\]: '1.weight' has the shape"):
        train_star(
            start, [solutions[0], solutions[0] | {"1.weight": torch.zeros(3, 64)}], digits, recipe
        )
    with pytest.raises(ValueError, match=r"sources\[0\]: '1.bias' has values that are not finite"):
        train_star(start, [solutions[0] | {"1.bias": torch.full((8,), torch.inf)}], digits, recipe)
    with pytest.raises(ValueError, match="t_sampling: 'betta' is not known; did you mean 'beta'"):
        train_star(start, solutions, digits, recipe, t_sampling="betta")
    with pytest.raises(
        ValueError, match="rematch_every: a whole number of at least 0 is needed, not -1"
    ):
        train_star(start, solutions, digits, recipe, rematch_every=-1)
    with pytest.raises(FloatingPointError, match=r"epoch \d+, batch \d+, seed 6"):
        train_star(start, solutions, digits, recipe.replace(lr=1e9, schedule="constant"), seed=6)


def test_parts_of_a_batch_make_up_the_gradient_of_the_whole(digits, recipe, solutions, make_mlp):
    "With one source and one t, it does not matter in how many parts a batch is taken."
    start, one = initialise(make_mlp, 9), recipe.replace(epochs=1)
    whole, parts = (
        train_star(start, solutions[:1], digits, one, t_sampling=0.4, segments_per_batch=count)
        for count in (1, 3)
    )
    for name in whole.state:
        torch.testing.assert_close(parts.state[name], whole.state[name], rtol=1e-3, atol=1e-5)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)


def test_each_part_has_another_source_and_a_t_from_another_part(digits, solutions, make_mlp):
    model = initialise(make_mlp, 0)
    sources = Sources(model, solutions, infer_spec(model, digits.train.x[:2]))
    theta = torch.zeros(sources.vectors.shape[1])
    sources.vectors = torch.arange(1.0, 4.0)[:, None].expand(3, len(theta)).contiguous()
    options = StarOptions(segments_per_batch=3)
    objective = StarObjective(sources, options, torch.Generator().manual_seed(0))
    seen = []
    for _ in range(200):
        losses, point = [], torch.empty_like(theta)
        for x, y, weight, factor in objective.terms(
            theta, point, digits.train.x[:90], digits.train.y[:90], losses
        ):
            seen.append((len(seen) % 3, round(point[0].item() / (1 - factor)), 1 - factor, weight))
            losses.append(torch.tensor(0.0))
    for i in range(0, len(seen), 3):
        assert {source for _, source, _, _ in seen[i : i + 3]} == {1, 2, 3}
    for part, _, t, weight in seen:
        assert part / 3 <= t <= (part + 1) / 3 and weight == pytest.approx(1 / 3)


def test_its_own_loss_alone_is_plain_training(digits, recipe, solutions, make_mlp):
    "At t = 1 no gradient comes from the segment, so what is left is the star's own loss."
    start = initialise(make_mlp, 9)
    star = train_star(
        start, solutions[:1], digits, recipe, t_sampling=1.0, own_loss_weight=1.0, seed=4
    ).state
    for name, tensor in train(start, digits, recipe, 4).items():
        torch.testing.assert_close(star[name], tensor)


def test_never_matched_and_matched_by_other_methods(digits, recipe, solutions, make_mlp):
    start, short = initialise(make_mlp, 9), recipe.replace(epochs=1)
    never = train_star(start, solutions, digits, short, rematch_every=None)
    none = train_star(start, solutions, digits, short, matching="none")
    assert all(torch.equal(never.state[k], none.state[k]) for k in never.state)
    assert all(
        torch.equal(order, torch.arange(len(order)))
        for p in never.permutations
        for order in p.values()
    )
    stars = [
        never,
        *(
            train_star(start, solutions, digits, short, matching=name)
            for name in ("weights", "activations")
        ),
    ]
    for one, other in combinations(stars, 2):
        assert not torch.equal(one.state["1.weight"], other.state["1.weight"])


def test_an_adaptive_star_goes_on_from_its_checkpoint(
    digits, recipe, solutions, make_mlp, tmp_path
):
    start, options = initialise(make_mlp, 9), dict(t_sampling="adaptive", segments_per_batch=2, own_loss_weight=0.3)
    options["late_batch_factor"] = 2  # in the last epoch, after the stop
    whole = train_star(start, solutions, digits, recipe, **options)

    class Killed(Exception): pass

    checkpoint, calls = Checkpoint(tmp_path / "star", every=0), iter(range(3 * 14 * 2))
    stopping = initialise(make_mlp, 9)
    def stop(*_):
        if next(calls, None) is None: raise Killed
    stopping.register_forward_pre_hook(stop)
    with pytest.raises(Killed):
        train_star(
            stopping,
            solutions,
            digits,
            recipe,
            spec=infer_spec(start, digits.train.x[:2]),
            checkpoint=checkpoint,
            **options,
        )
    assert (tmp_path / "star").exists()
    resumed = train_star(
        start,
        solutions,
        digits,
        recipe,
        checkpoint=Checkpoint(tmp_path / "star", every=0),
        **options,
    )
    assert all(torch.equal(whole.state[k], resumed.state[k]) for k in whole.state)
    assert whole.loss == resumed.loss


def test_bad_options_are_named(digits, recipe, solutions, make_mlp):
    start = initialise(make_mlp, 0)
    for option, value, needed in (
        ("segments_per_batch", 0, "a whole number of at least 1"),
        ("own_loss_weight", -1.0, "a number of at least 0"),
        ("late_batch_factor", 0, "a whole number of at least 1"),
        ("rematch_every", 0.5, "a whole number of at least 0"),
    ):
        with pytest.raises(ValueError, match=f"{option}: {needed} is needed, not {value}"):
            train_star(start, solutions, digits, recipe, **{option: value})
    with pytest.raises(ValueError, match="matching: 'weight' is not known; did you mean 'weights'"):
        train_star(start, solutions, digits, recipe, matching="weight")


def noted_splits(monkeypatch):
    "The source and the number of examples of every part of a batch, noted as they are drawn."
    drawn, split = [], SegmentDraws.split

    def noted(draws, *words):
        for n, t, x, y in split(draws, *words):
            drawn.append((n, len(x)))
            yield n, t, x, y

    monkeypatch.setattr(SegmentDraws, "split", noted)
    return drawn


def test_only_drawn_sources_are_matched_again(digits, recipe, solutions, make_mlp, monkeypatch):
    "Six sources and three batches an epoch: at most three are matched, and those that are drawn."
    sources, start = (solutions * 3)[:6], initialise(make_mlp, 9)
    drawn, calls, rematch = noted_splits(monkeypatch), [], Sources.rematch

    def noted_rematch(table, theta, numbers=None):
        calls.append(numbers)
        rematch(table, theta, numbers)

    monkeypatch.setattr(Sources, "rematch", noted_rematch)
    few = recipe.replace(epochs=4, batch_size=len(digits.train) // 3 + 1)
    star = train_star(start, sources, digits, few)
    assert calls[:-1] == [sorted({n for n, _ in drawn[3 * e:3 * e + 3]}) for e in range(4)]
    assert calls[-1] is None, "all of them at the end"
    matcher = Matcher(infer_spec(start, digits.train.x[:2]), sources)
    matcher.resume(star.permutations)
    assert not any(found.steps for found in matcher.match(star.state)), "matched to the end"


def test_batches_are_larger_in_the_last_quarter_of_the_epochs(
    digits, recipe, solutions, make_mlp, monkeypatch
):
    drawn, size = noted_splits(monkeypatch), 100
    count, start = len(digits.train), initialise(make_mlp, 9)
    train_star(start, solutions, digits, recipe.replace(epochs=4, batch_size=size),
               late_batch_factor=3)
    usual, larger = (digits.train.batch_sizes(own) for own in (size, 3 * size))
    assert [examples for _, examples in drawn] == 3 * usual + larger
    assert sum(usual) == sum(larger) == count and len(larger) == -(-count // (3 * size))


def test_all_that_larger_batches_draw_is_matched_before(small, monkeypatch):
    """Larger batches have more parts. They begin between two re-matches, and no source is drawn that
    the last one left out."""
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    sources = [state_of(initialise(make, seed)) for seed in range(60)]
    drawn, matched, rematch = noted_splits(monkeypatch), [], Sources.rematch

    def noted_rematch(table, theta, numbers=None):
        matched.append((len(drawn), set(range(60) if numbers is None else numbers)))
        rematch(table, theta, numbers)

    monkeypatch.setattr(Sources, "rematch", noted_rematch)
    train_star(initialise(make, 60), sources, small, Recipe(epochs=4, batch_size=4, lr=0.01),
               rematch_every=2, segments_per_batch=8, late_batch_factor=2)
    (begin, early), (middle, _), (end, _) = matched
    assert [begin, middle, end] == [0, 40, len(drawn)] and len(early) < 60
    for (first, known), last in zip(matched, (middle, end)):
        assert {n for n, _ in drawn[first:last]} <= known


def test_where_all_sources_are_drawn_it_is_the_algorithm_of_the_paper(
    digits, recipe, solutions, make_mlp
):
    start = initialise(make_mlp, 9)
    one, other = (train_star(start, solutions, digits, recipe.replace(batch_size=20), rematch=kind)
                  for kind in ("drawn", "all"))
    assert one.loss == other.loss
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    with pytest.raises(ValueError, match="rematch: 'none' is not known"):
        train_star(start, solutions, digits, recipe, rematch="none")


@pytest.mark.parametrize("every", [1, 10**9])
def test_how_far_it_looks_ahead_has_an_end(every):
    "With so many epochs every source is drawn, and nothing is drawn in advance."
    draws = SegmentDraws(40, "uniform", torch.Generator().manual_seed(0))
    before = draws.rng.get_state()
    found = draws.upcoming([100] * 3, 2, every)
    assert torch.equal(draws.rng.get_state(), before)
    assert found == [*range(40)] if every > 1 else len(found) <= 6


def test_a_star_killed_in_its_last_match_resumes_from_its_checkpoint(
    digits, recipe, solutions, make_mlp, tmp_path, monkeypatch
):
    start, rematch = initialise(make_mlp, 9), Sources.rematch
    whole = train_star(start, solutions, digits, recipe)

    def killed(table, theta, numbers=None):
        if numbers is None: raise KeyboardInterrupt
        rematch(table, theta, numbers)

    monkeypatch.setattr(Sources, "rematch", killed)
    checkpoint = Checkpoint(tmp_path / "star", every=0)
    with pytest.raises(KeyboardInterrupt):
        train_star(start, solutions, digits, recipe, checkpoint=checkpoint)
    monkeypatch.undo()
    star = train_star(start, solutions, digits, recipe, checkpoint=checkpoint)
    assert star.loss == whole.loss
    assert all(torch.equal(star.state[name], whole.state[name]) for name in whole.state)
