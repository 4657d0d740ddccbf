"""Specs of real architectures: the paper's networks, torchvision's, and operations in random
combinations."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from starlight_nb.matching.coordinate_descent import inner_product
from starlight_nb.matching import match_weights
from starlight_nb.models import ZOO, build
from starlight_nb.permutation import (
    PermutationSpec, check_permutation, check_spec, compose, infer_spec, invert, permute)
from starlight_nb.matching.weights import matched_names

IMAGE = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224}
SMALLER = {
    "vit_h_14": {"image_size": 28},
    "vit_b_16": {"image_size": 32},
    "vit_l_16": {"image_size": 32},
    "vit_b_32": {"image_size": 64},
    "vit_l_32": {"image_size": 64},
    "inception_v3": {"aux_logits": False},  # which take no images of less than 299 pixels
}
TORCHVISION = torchvision.models.list_models(module=torchvision.models)
# one or two of each family; the others are slow, and run with STARLIGHT_SLOW=1
QUICK = [
    "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t",
]
# in which a planted permutation is looked for too
PLANTED = ("densenet121", "swin_t", "regnet_y_400mf", "shufflenet_v2_x0_5")


def randomised(model, seed=0):
    "A state in which no two numbers are alike by construction."
    generator = torch.Generator().manual_seed(seed)
    return {
        k: v + 0.1 * torch.rand(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }


def recovers(spec, state, seed=0):
    "Is a planted permutation found again, to the last bit?"
    moved = permute(spec, spec.random(torch.Generator().manual_seed(seed)), state)
    back = permute(spec, match_weights(spec, state, moved).permutation, moved)
    return any(not torch.equal(moved[k], state[k]) for k in state) and all(
        torch.equal(back[k], state[k]) for k in state
    )


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(label, marks=pytest.mark.slow) if label in ("WRN-22-8", "VGG19") else label
        for label in ZOO
    ],
)
def test_the_paper_s_networks_are_wholly_permutable_and_recovered(label):
    name, kwargs, _ = ZOO[label]
    model = build(name, **kwargs)
    x = (
        torch.randint(0, 50, (2, 9))
        if name == "text_bag"
        else torch.randn(2, *((1, 28, 28) if name == "mlp" else (3, 32, 32)))
    )
    spec = infer_spec(model, x)
    assert spec.coverage == 1 and not any("changed" in why for why in spec.pinned.values())
    assert recovers(spec, randomised(model))


def torchvision_spec(name):
    size = SMALLER.get(name, {}).get("image_size") or IMAGE.get(name, 32)
    model = build(f"torchvision.{name}", num_classes=7, **SMALLER.get(name, {}))
    return model, infer_spec(model, torch.randn(2, 3, size, size))


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TORCHVISION]
)
def test_torchvision(name):
    model, spec = torchvision_spec(name)
    assert not any(
        "changed" in why or "no rule" in why or "does not cover" in why
        for why in spec.pinned.values()
    )
    # the halves of a channel shuffle leave some channels of ShuffleNet
    # without another in the same role
    assert spec.coverage > 0.99 if name.startswith("shufflenet") else spec.coverage == 1
    if name in PLANTED: assert recovers(spec, randomised(model))


def test_attention_has_heads_as_blocks_and_units_within_each():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.words, self.layers, self.top = (
                nn.Embedding(30, 16),
                nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                nn.Linear(16, 3),
            )
            self.places = nn.Parameter(torch.randn(9, 16))

        def forward(self, tokens):
            return self.top(self.layers(self.words(tokens) + self.places).mean(1))

    model, tokens = Text(), torch.randint(0, 30, (2, 9))
    spec = infer_spec(model, tokens)
    assert spec.groups["words"] == 16 and spec.axes["places"][1] == spec.axes["words.weight"][1]
    assert spec.axes["words.weight"][0] is None and spec.pinned["words.weight[0]"] == "a vocabulary"
    nested = {
        group: (spec.groups[group], spec.groups[outer]) for group, outer in spec.blocks.items()
    }
    assert list(nested.values()) == [(16, 4)] * 4, "queries with keys, and values, in both layers"
    p, q = (spec.random(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    check_permutation(spec, compose(p, invert(q)))
    assert spec.coverage == 1 and recovers(spec, randomised(model))
    assert PermutationSpec.from_json(spec.to_json()) == spec
    assert "4 x 4" in spec._repr_html_() and "100.0 %" in spec._repr_html_()


def test_a_tied_vocabulary_and_named_inputs():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.inner = nn.Embedding(12, 6), nn.Linear(6, 6)

        def forward(self, tokens):
            return {"logits": F.linear(self.inner(self.words(tokens)).relu(), self.words.weight)}

    spec = infer_spec(Tied(), {"tokens": torch.randint(0, 12, (2, 5))})
    assert spec.groups == {"words": 6} and spec.axes["words.weight"][0] is None


def network(forward, **modules):
    "A module with this forward pass."
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module) if isinstance(
                    module, (nn.Module, nn.Parameter)
                ) else self.register_buffer(name, module)

        def forward(self, x):
            return forward(self, x)

    return Network()


ODD = {
    "grouped": (
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, groups=4),
            nn.ReLU(),
            nn.Conv2d(12, 5, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 2),
        ),
        (3, 8, 8),
        [4, 2, 12, 5],
    ),
    "group norm": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        (3, 8, 8),
        [4, 8],
    ),
    "gated": (
        network(lambda s, x: s.b(F.glu(s.a(x))), a=nn.Linear(5, 12), b=nn.Linear(6, 2)),
        (5,),
        [6],
    ),
    "rolled": (
        network(
            lambda s, x: s.b(s.a(x).roll(2, -1).flip(-1)), a=nn.Linear(5, 6), b=nn.Linear(6, 2)
        ),
        (5,),
        [6],
    ),
    "sliced": (
        network(
            lambda s, x: s.b(s.a(x)[:, :4].relu()) + s.a(x)[:, 4:].sum(1, keepdim=True),
            a=nn.Linear(5, 7),
            b=nn.Linear(4, 2),
        ),
        (5,),
        [4, 3],
    ),
    "recurrent": (
        network(
            lambda s, x: s.b(s.a(x)[0][:, -1]),
            a=nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
            b=nn.Linear(12, 2),
        ),
        (7, 5),
        [6] * 4,
    ),
    "pixels": (
        nn.Sequential(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.Conv2d(3, 2, 1)),
        (3, 6, 6),
        [3],
    ),
    "casts": (
        network(lambda s, x: s.b(s.a(x.float()).softmax(-1)), a=nn.Linear(5, 6), b=nn.Linear(6, 2)),
        (5,),
        [6],
    ),
    "logarithm": (
        network(lambda s, x: s.b(s.a(x.log())), a=nn.Linear(5, 6), b=nn.Linear(6, 2)),
        (5,),
        [6],
    ),
    "coordinates": (
        network(
            lambda s, x: s.c(s.a(x) + s.d(s.b(s.table).relu()).mean(0)),
            a=nn.Linear(5, 6),
            b=nn.Linear(2, 7),
            d=nn.Linear(7, 6),
            c=nn.Linear(6, 2),
            table=torch.randn(9, 2),
        ),
        (5,),
        [6, 7],
    ),
    "frozen norm": (
        nn.Sequential(
            nn.Conv2d(3, 6, 3), torchvision.ops.FrozenBatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)
        ),
        (3, 6, 6),
        [6],
    ),
    "option A": (
        network(
            lambda s, x: s.c(F.pad(s.a(x), (0, 0, 0, 0, 2, 2)) + s.b(x)),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(3, 8, 1),
            c=nn.Conv2d(8, 2, 1),
        ),
        (3, 6, 6),
        [4, 4],
    ),
    "einsum": (
        network(
            lambda s, x: torch.einsum("bh,hio,bi->bo", s.a(x).softmax(-1), s.w, s.b(x)),
            a=nn.Linear(5, 4),
            b=nn.Linear(5, 6),
            w=nn.Parameter(torch.randn(4, 6, 2)),
        ),
        (5,),
        [4, 6],
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_known_symmetries(kind):
    model, shape, sizes = ODD[kind]
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    spec = infer_spec(model, x)
    assert sorted(spec.groups.values()) == sorted(sizes) and spec.coverage == 1
    check_spec(model, spec, x, generator=torch.Generator().manual_seed(7))
    assert recovers(spec, randomised(model))


class Graph(nn.Module):
    "Operations on a list of images; each takes earlier ones and appends its result."

    def __init__(self, steps):
        super().__init__()
        self.steps, channels, made = steps, [3], []
        for kind, i, j, width in steps:
            i, j = i % len(channels), j % len(channels)
            a, b, out, module = channels[i], channels[j], channels[i], nn.Identity()
            if kind == "conv":
                out, module = width, nn.Conv2d(a, width, 3, padding=1)
            elif kind == "grouped":
                out, module = (
                    2 * width,
                    nn.Sequential(
                        nn.Conv2d(a, 4, 1), nn.Conv2d(4, 2 * width, 3, padding=1, groups=2)
                    ),
                )
            elif kind == "depthwise": module = nn.Conv2d(a, a, 3, padding=1, groups=a)
            elif kind == "batch norm": module = nn.BatchNorm2d(a)
            elif kind == "group norm": module = nn.GroupNorm(1 if a % 2 else 2, a)
            elif kind == "add": module = nn.Conv2d(b, a, 1)
            elif kind == "gate":
                module = nn.Sequential(
                    nn.AdaptiveAvgPool2d(1),
                    nn.Conv2d(a, width, 1),
                    nn.ReLU(),
                    nn.Conv2d(width, a, 1),
                    nn.Sigmoid(),
                )
            elif kind == "cat": out = a + b
            elif kind == "half": out = a - a // 2
            made.append((kind, i, j, module))
            channels.append(out)
        self.plan, self.layers = (
            [step[:3] for step in made],
            nn.ModuleList(step[3] for step in made),
        )
        self.top = nn.Sequential(
            nn.Linear(4 * channels[-1], 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)
        )

    def forward(self, x):
        values = [x]
        for (kind, i, j), layer in zip(self.plan, self.layers):
            a, b = values[i], values[j]
            values.append(
                {
                    "add": lambda: a + layer(b),
                    "gate": lambda: a * layer(a),
                    "cat": lambda: torch.cat([a, b.relu()], 1),
                    "half": lambda: a.chunk(2, 1)[0] if a.shape[1] > 1 else a,
                }.get(kind, lambda: layer(a))()
            )
        return self.top(F.adaptive_avg_pool2d(values[-1].relu(), 2).flatten(1))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "conv", "conv", "grouped", "depthwise", "batch norm", "group norm", "add", "gate",
                "cat", "half",
            ]
        ),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(2, 4),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_random_graphs(steps):
    model, x = Graph(steps), torch.randn(2, 3, 5, 5)
    spec = infer_spec(model, x)
    assert not any("changed the outputs" in why for why in spec.pinned.values()), (
        "the rules alone are right, before the proof"
    )
    assert spec.groups, "the classifier's hidden layer is always a group"
    check_spec(model, spec, x, generator=torch.Generator().manual_seed(1))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.sampled_from(["forward", "backward", "random"]))
def test_matching_on_random_graphs(steps, order):
    model = Graph(steps)
    spec = infer_spec(model, torch.randn(2, 3, 5, 5))
    a, b = (randomised(Graph(steps), seed) for seed in (0, 1))
    found = match_weights(spec, a, b, order=order)
    check_permutation(spec, found.permutation)
    assert all(x <= y + 1e-12 for x, y in zip(found.history, found.history[1:]))
    names = matched_names(spec, a)
    assert inner_product(a, permute(spec, found.permutation, b), names) == pytest.approx(
        found.objective, rel=1e-9
    )
    assert match_weights(spec, a, b, init=found.permutation).objective == pytest.approx(
        found.objective, rel=1e-12
    )
    itself = match_weights(spec, a, a, order=order)
    assert not itself.steps and itself.cosine == pytest.approx(1)


def test_a_model_in_which_nothing_can_be_permuted():
    with pytest.warns(UserWarning, match="Linear has nothing to permute"):
        spec = infer_spec(nn.Linear(5, 3), torch.randn(2, 5))
    assert spec.groups == {} and spec.coverage == 0 and spec.random() == {}


def test_an_edited_spec_is_checked():
    text = infer_spec(build("mlp", width=6), torch.randn(2, 1, 8, 8)).to_json()
    with pytest.raises(ValueError, match=r"6 units of 'other', of which groups has none"):
        PermutationSpec.from_json(text.replace('"1",', '"other",', 1))
    with pytest.raises(ValueError, match="text: not a permutation spec"):
        PermutationSpec.from_json("[1, 2]")
    with pytest.raises(ValueError, match="p: a permutation of 'a' is missing"):
        compose({}, {"a": torch.arange(2)})
