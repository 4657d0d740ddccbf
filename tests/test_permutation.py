"""Permutation symmetries: what a spec says must hold for any network, and what it cannot say must
be pinned."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from starlight_nb.models import build
from starlight_nb.permutation import (
    PermutationSpec, check_spec, compose, infer_spec, invert, permute)
from starlight_nb.permutation.rules import RULES, rule
from starlight_nb.training import state_of

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU]


class Residual(nn.Module):
    "A block added to its own input, in one of the two orders of addition."

    def __init__(self, inner, flipped):
        super().__init__()
        self.inner, self.flipped = inner, flipped

    def forward(self, x):
        return x + self.inner(x) if self.flipped else self.inner(x) + x


@st.composite
def networks(draw):
    """A random chain of convolutions, normalisations, pools and residual blocks with a random
    classifier."""
    channels, layers, size = 2, [], 8
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "residual", "pool", "depthwise", "deep residual"]))
        if kind == "conv":
            out = draw(st.integers(2, 5))
            layers += [
                nn.Conv2d(
                    channels,
                    out,
                    draw(st.sampled_from([1, 3])),
                    padding="same",
                    bias=draw(st.booleans()),
                )
            ]
            channels = out
        elif kind == "depthwise":
            layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels)]
        elif kind == "pool" and size > 2:
            layers += [draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2)]
            size //= 2
        else:
            inner = [
                nn.Conv2d(channels, 3, 3, padding=1),
                nn.BatchNorm2d(3),
                nn.ReLU(),
                nn.Conv2d(3, channels, 1),
            ]
            block = Residual(nn.Sequential(*inner), draw(st.booleans()))
            layers += [
                Residual(nn.Sequential(block, nn.ReLU()), False)
                if kind == "deep residual"
                else block
            ]
        if draw(st.booleans()):
            layers += [nn.BatchNorm2d(channels)]
        layers += [draw(st.sampled_from(ACTIVATIONS))()]
    if draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(draw(st.integers(1, 2)))]
        size = layers[-1].output_size
    width = draw(st.integers(2, 6))
    classifier = [
        nn.Flatten(),
        nn.Linear(channels * size * size, width),
        draw(st.sampled_from(ACTIVATIONS))(),
        nn.Dropout(),
        nn.Linear(width, 3),
    ]
    return nn.Sequential(*layers, *classifier)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**31))
def test_a_random_permutation_leaves_any_network_as_it_is(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, 8, 8, generator=generator)
    spec = infer_spec(model, x)
    assert not any("changed the outputs" in why for why in spec.pinned.values())
    assert spec.groups, "the classifier's hidden layer is always a group"
    check_spec(model, spec, x, generator=generator)
    moved = type(model)(*model).eval()
    before = moved(x)
    moved.load_state_dict(permute(spec, spec.random(generator), state_of(model)))
    torch.testing.assert_close(moved(x), before, atol=1e-4, rtol=1e-4)


def test_groups_of_known_networks():
    x = torch.randn(2, 1, 8, 8)
    assert list(infer_spec(build("mlp", depth=4, width=7), x).groups.values()) == [7] * 4
    assert list(infer_spec(build("resnet", width=4, blocks=(2, 2)), x).groups.values()) == [
        4, 4, 4, 8, 8, 8,
    ]


def test_every_hidden_channel_of_resnet18_moves():
    model = build("resnet18")
    spec = infer_spec(model, torch.randn(2, 3, 32, 32))
    for name, tensor in model.named_parameters():
        axes = spec.axes.get(name, (None,) * tensor.ndim)
        assert bool(axes[0]) == (not name.startswith("classifier")), name
        if tensor.ndim > 1:
            assert bool(axes[1]) == (name != "stem.0.weight"), name
    assert all("running" in name for name in spec.buffers) and len(spec.buffers) == 2 * 20


def test_two_branches_that_are_added_share_a_group():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.top = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.top((self.left(x) + self.right(x)).relu())

    assert list(infer_spec(Branches(), torch.randn(2, 4)).groups.values()) == [6]


def test_everything_that_meets_elementwise_shares_a_group():
    class Gates(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 6) for _ in range(5))
            self.scale, self.top = nn.Parameter(torch.ones(6)), nn.Linear(6, 2)

        def forward(self, x):
            a, b, c, d, e = (layer(x) for layer in self.layers)
            gated = torch.where(
                a > b,
                torch.sigmoid(c) * d.abs().clamp(min=0.1, max=2),
                nn.functional.gelu(e, approximate="tanh"),
            )
            return self.top(
                torch.sub(gated, self.scale, alpha=2).mean(dim=-1, keepdim=True) + gated
            )

    spec = infer_spec(Gates(), torch.randn(3, 4))
    assert list(spec.groups.values()) == [6]
    assert spec.axes["scale"]
    assert all(spec.axes[f"layers.{i}.weight"] for i in range(5))


def test_tied_weights_share_and_the_example_s_values_do_not_matter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.a, self.b, self.last = (
                nn.Linear(4, 6),
                nn.Linear(6, 6),
                nn.Linear(6, 6),
                nn.Linear(6, 2),
            )
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.last(self.b(self.a(self.first(x).relu()).relu()).relu())

    spec = infer_spec(Tied(), torch.zeros(2, 4))
    assert list(spec.groups.values()) == [6] and spec.axes["a.weight"] == spec.axes["b.weight"]
    check_spec(Tied(), spec, torch.zeros(2, 4))
    pooled = nn.Sequential(
        nn.Conv2d(1, 5, 3, bias=False),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 3, bias=False),
    )
    assert list(infer_spec(pooled, torch.zeros(2, 1, 8, 8)).groups.values()) == [5]


def test_a_shared_layer_keeps_what_both_uses_need():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.again(self.again(self.first(x).relu()).relu()))

    spec = infer_spec(Twice(), torch.randn(2, 4))
    assert spec.groups == {"first": 6}
    assert len([a for a in spec.axes["again.weight"] if a]) == 2


def test_an_output_that_is_a_hidden_layer_is_pinned():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            hidden = self.first(x)
            return hidden, self.second(hidden)

    with pytest.warns(UserWarning, match="Both has nothing to permute"):
        spec = infer_spec(Both(), torch.randn(2, 4))
    assert not spec.groups and "reaches the output" in spec.pinned["first.weight[0]"]


def test_an_operation_without_a_rule_pins_and_says_so(monkeypatch):
    monkeypatch.delitem(RULES, "sort")
    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(-1).values

    model = nn.Sequential(nn.Linear(4, 6), Sorted(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    spec = infer_spec(model, torch.randn(2, 4))
    assert list(spec.groups.values()) == [5]
    assert spec.pinned["0.weight[0]"] == "no rule for the operation sort" and spec.coverage < 1


def test_a_wrong_rule_of_a_user_is_caught_by_the_proof(monkeypatch):
    class Summed(nn.Module):
        def forward(self, x):
            return x.cumsum(-1)

    monkeypatch.setitem(RULES, "cumsum", None)  # so that the rule of the package comes back
    rule("cumsum")(lambda units, node, x, *rest: x)
    model = nn.Sequential(nn.Linear(4, 6), Summed(), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="Sequential has nothing to permute"):
        spec = infer_spec(model, torch.randn(2, 4))
    assert not spec.groups
    assert "changed the outputs" in spec.pinned["0"]
    assert "0.weight[0]" in spec.pinned["0"]


def test_an_untraceable_model_is_one_clear_error():
    class Silent(nn.Module):
        def forward(self, x):
            return "no tensor"

    with pytest.raises(ValueError, match="model: Silent cannot be traced: it returns no tensor"):
        infer_spec(Silent(), torch.randn(2, 4))
    with pytest.raises(ValueError, match="example_inputs: Sequential does not accept them"):
        infer_spec(build("mlp"), torch.randn(2, 3))
    with pytest.raises(TypeError, match="model: an nn.Module is needed, not OrderedDict"):
        infer_spec(build("mlp").state_dict(), torch.randn(2, 3))


def test_a_choice_that_the_example_settles():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            hidden = self.first(x).relu()
            if hidden.sum() > 1e9:
                return hidden[:, :2]
            return self.second(hidden)

    assert infer_spec(Branching(), torch.randn(2, 4)).groups == {"first": 6}


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_permutations_form_a_group(seed):
    spec = PermutationSpec(
        {"a": 5, "b": 3}, {"w": (((("a", 5),),), ((("b", 3), (None, 2)),))}, {"w": (5, 6)}
    )
    p, q, r = (spec.random(torch.Generator().manual_seed(seed + i)) for i in range(3))
    same = lambda x, y: all(torch.equal(x[g], y[g]) for g in spec.groups)
    assert same(compose(p, compose(q, r)), compose(compose(p, q), r))
    assert same(compose(p, invert(p)), spec.identity())
    assert same(compose(invert(p), p), spec.identity())
    state = {"w": torch.randn(5, 6)}
    before = state["w"].clone()
    assert torch.equal(
        permute(spec, compose(p, q), state)["w"], permute(spec, p, permute(spec, q, state))["w"]
    )
    assert torch.equal(state["w"], before), "the argument is left as it was"


def test_a_spec_survives_json():
    spec = infer_spec(build("resnet"), torch.randn(2, 1, 8, 8))
    assert PermutationSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="text: not a permutation spec, without axes"):
        PermutationSpec.from_json('{"groups": {}, "shapes": {}}')


def test_other_shapes_are_named(make_mlp):
    spec = infer_spec(make_mlp(), torch.randn(2, 1, 8, 8))
    with pytest.raises(
        ValueError, match=r"state: '1.weight' has the shape \(9, 64\), in the spec of the model it is \(8, 64\)"
    ):
        permute(spec, spec.identity(), build("mlp", depth=2, width=9).state_dict())
    with pytest.raises(
        ValueError,
        match=r"state: the tensor '7.weight' is only in the state \(1 "
              r"more on one side only\); both",
    ):
        permute(spec, spec.identity(), build("mlp", depth=3, width=8).state_dict())
    with pytest.raises(ValueError, match="state: '1.weight' is no tensor but list"):
        permute(
            spec,
            spec.identity(),
            {name: tensor.tolist() for name, tensor in make_mlp().state_dict().items()},
        )
