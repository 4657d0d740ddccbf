"""Architectures of the long tail: how they are traced, which outputs count, and blocks within blocks.

Each spec is compared with the network itself: a random permutation must leave the outputs as they are.
"""
import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from test_reach import change
from torch import nn

from starlight_nb.matching import align, match_weights
from starlight_nb.permutation import PermutationSpec, check_spec, infer_spec

X = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))


class Apply(nn.Module):
    "Calls a function of itself and the input; its layers are given by name."

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def sizes(spec):
    return sorted(spec.groups.values())


# --- blocks, blocks within blocks, and pairs of both


class GroupedAttention(nn.Module):
    "Attention whose queries, keys and values are grouped convolutions, with a residual connection."

    def __init__(self, heads, groups):
        super().__init__()
        self.heads, self.inside, self.outside = heads, nn.Linear(5, 24), nn.Linear(24, 2)
        self.query, self.key, self.value = (nn.Conv1d(24, 24, 1, groups=groups) for _ in range(3))
        self.last = nn.Conv1d(24, 24, 1, groups=groups)

    def forward(self, x):
        x = self.inside(x).transpose(1, 2)
        q, k, v = (layer(x).unflatten(1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        found = v @ (q.mT @ k).softmax(-1).mT
        return self.outside((x + self.last(found.flatten(1, 2))).mean(-1))


@pytest.mark.parametrize(("heads", "groups"), [(2, 4), (4, 4), (6, 2)])
def test_heads_and_groups_of_channels_cut_one_axis(heads, groups):
    model = GroupedAttention(heads, groups)
    spec = infer_spec(model, X)
    assert spec.coverage == 1 and min(heads, groups) in spec.groups.values()
    assert change(model, spec, lambda network: network(X.double())) < 1e-12


def test_grouped_convolutions_in_a_row():
    layers = [nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 2, 1)]
    model, image = nn.Sequential(*layers), torch.randn(2, 3, 8, 8)
    spec = infer_spec(model, image)
    assert spec.coverage == 1 and sizes(spec) == [4, 4, 4, 16], "groups, two orders in them, and a nested order"
    assert change(model, spec, lambda network: network(image.double())) < 1e-12


@pytest.mark.parametrize("shape", [(8, 4, 4), (8, 16), (8, 2, 4, 2)])
def test_a_layer_that_makes_an_image(shape):
    conv = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][len(shape) - 2](8, 2, 3)
    model, x = nn.Sequential(nn.Linear(5, 128), nn.ReLU(), nn.Unflatten(1, shape), conv), torch.randn(2, 5)
    spec = infer_spec(model, x)
    assert sizes(spec) == [8] and spec.coverage == 1
    assert change(model, spec, lambda network: network(x.double())) < 1e-12


def turned_pairs(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def turned_halves(x):
    return torch.cat((-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]), -1)


class Rotary(nn.Module):
    "Attention with a rotary embedding of the first `turned` of 8 units of each head."

    def __init__(self, turn, key_heads, turned):
        super().__init__()
        self.turn, self.turned = turn, turned
        self.i, self.q, self.o = nn.Linear(5, 16), nn.Linear(16, 32), nn.Linear(32, 2)
        self.k, self.v = nn.Linear(16, 8 * key_heads), nn.Linear(16, 8 * key_heads)
        angles = torch.outer(torch.arange(7.0), 0.1 ** torch.arange(turned // 2))
        angles = angles.repeat_interleave(2, -1) if turn is turned_pairs else torch.cat([angles, angles], -1)
        self.register_buffer("angles", angles, persistent=False)

    def placed(self, x):
        first, rest = x[..., :self.turned], x[..., self.turned:]
        return torch.cat([first * self.angles.cos() + self.turn(first) * self.angles.sin(), rest], -1)

    def forward(self, x):
        x = self.i(x)
        q, k, v = (layer(x).unflatten(-1, (-1, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(self.placed(q), self.placed(k), v, enable_gqa=True)
        return self.o(found.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("turned", [8, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("turn", [turned_pairs, turned_halves])
def test_rotary_embeddings_keep_the_heads(turn, key_heads, turned):
    model = Rotary(turn, key_heads, turned)
    spec = infer_spec(model, X)
    assert spec.coverage == 1 and spec.groups["q"] == key_heads
    assert change(model, spec, lambda network: network(X.double())) < 1e-12


def test_units_of_heads_that_share_a_key_stay_in_their_head():
    def forward(self, x):
        heads = self.a(x).unflatten(-1, (4, 3))
        gates = self.gate(x).repeat_interleave(2, -1)  # two gates, each for two heads
        return self.o((heads * gates[..., None]).flatten(-2))
    model = Apply(forward, a=nn.Linear(5, 12), gate=nn.Linear(5, 2), o=nn.Linear(12, 2))
    spec = infer_spec(model, X)
    assert not any("changed" in why for why in spec.pinned.values()), "inferred rightly, not caught by the proof"
    assert spec.coverage == 1 and change(model, spec, lambda network: network(X.double())) < 1e-12


# --- traces


@dataclass
class Returned:
    prediction: torch.Tensor
    hidden: torch.Tensor


def test_dataclasses_branches_autocast_and_checkpoints():
    def forward(self, x):
        hidden = self.a(x)
        if hidden.sum() > 1e9:
            hidden = -hidden
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            hidden = torch.utils.checkpoint.checkpoint(lambda y: y.relu(), hidden, use_reentrant=False)
        return Returned(self.b(hidden), hidden)
    model = Apply(forward, a=nn.Linear(5, 12), b=nn.Linear(12, 2))
    spec = infer_spec(model, X)
    assert spec.groups == {"a": 12} and spec.coverage == 1 and spec.free_outputs == ("hidden",)
    assert change(model, spec, lambda network: network(X.double()).prediction) < 1e-12


class Text:
    "Inputs of a kind that nobody else knows."

    def __init__(self, tokens):
        self.tokens, self.name = tokens, "text"


def test_inputs_of_any_kind_are_not_changed():
    def forward(self, text):
        text.tokens += 1  # a model that writes into its input
        return self.top(self.words(text.tokens - 1).mean(1))
    model = Apply(forward, words=nn.Embedding(9, 6), top=nn.Linear(6, 2))
    text = Text(torch.arange(8).reshape(2, 4))
    assert infer_spec(model, text).groups == {"words": 6}
    assert text.tokens.tolist() == torch.arange(8).reshape(2, 4).tolist()


def test_packed_sequences():
    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.top(self.lstm(packed)[1][0][-1])
    model = Apply(forward, lstm=nn.LSTM(5, 6, 2, batch_first=True), top=nn.Linear(6, 2))
    spec = infer_spec(model, (X, torch.tensor([7, 3, 5])))
    assert sizes(spec) == [6, 6] and spec.coverage == 1
    run = lambda network: network(X.double(), torch.tensor([7, 3, 5]))  # noqa: E731
    assert change(model, spec, run) < 1e-12


def test_a_graph_network_with_loops_added():
    def layer(weight, x, edges):
        edges = edges[:, edges[0] != edges[1]]  # as many as the data say
        loops = torch.arange(len(x)).expand(2, -1)
        source, target = torch.cat([edges, loops], 1)
        degree = torch.zeros(len(x), dtype=x.dtype).index_add(0, target, torch.ones(len(target), dtype=x.dtype))
        norm = (degree[source] * degree[target]).rsqrt()
        return torch.zeros(len(x), weight.out_features, dtype=x.dtype).index_add(
            0, target, weight(x)[source] * norm[:, None])
    model = Apply(lambda self, x, edges: layer(self.b, layer(self.a, x, edges).relu(), edges),
                  a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    nodes, edges = X[0], torch.tensor([[0, 1, 2, 3, 3, 6], [1, 1, 0, 2, 5, 4]])
    spec = infer_spec(model, (nodes, edges))
    assert spec.groups == {"a": 8} and spec.coverage == 1
    assert change(model, spec, lambda network: network(nodes.double(), edges)) < 1e-12


def test_recording_leaves_the_model_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)
            self.register_buffer("calls", torch.zeros(1))
            self.seen = []

        def forward(self, x):
            self.calls += 1
            self.seen.append(len(x))
            return self.b(self.a(x))
    model = Counting().eval()
    before = copy.deepcopy(model.state_dict())
    assert infer_spec(model, X).groups == {"a": 6}
    assert not model.seen and all(torch.equal(own, before[name]) for name, own in model.state_dict().items())


# --- outputs


def two_heads(self, x):
    hidden = self.a(x).relu()
    return self.first(hidden), self.second(hidden)


def test_a_second_head_keeps_its_order():
    model = Apply(two_heads, a=nn.Linear(5, 8), first=nn.Linear(8, 3), second=nn.Linear(8, 4))
    spec = infer_spec(model, X)
    assert spec.groups == {"a": 8} and not spec.free_outputs
    assert change(model, spec, lambda network: network(X.double())[1]) < 1e-12


def test_logits_behind_a_loss_keep_their_order():
    def forward(self, x):
        logits = self.b(self.a(x).relu())
        return logits.logsumexp(-1), logits  # a loss for each example comes first
    spec = infer_spec(Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 4)), X)
    assert spec.groups == {"a": 8} and not spec.free_outputs


def hidden_and_logits(self, x):
    hidden = self.a(x).relu()
    return {"hidden": hidden, "logits": self.b(hidden)}


@pytest.mark.parametrize(("outputs", "groups", "free"), [
    (None, {"a": 8}, ("hidden",)),
    ("logits", {"a": 8}, ("hidden",)),
    (lambda returned: returned["logits"], {"a": 8}, ("hidden",)),
    ("hidden", {}, ("logits",)),
    (["hidden", "logits"], {}, ()),
    (lambda returned: returned, {}, ()),
])
def test_which_outputs_count(outputs, groups, free):
    model = Apply(hidden_and_logits, a=nn.Linear(5, 8), b=nn.Linear(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        spec = infer_spec(model, X, outputs=outputs)
    assert spec.groups == groups and spec.free_outputs == free
    assert PermutationSpec.from_json(spec.to_json()) == spec
    assert all(own < 1e-9 for own in check_spec(model, spec, X, outputs=outputs).values())
    if free == ():
        assert spec.coverage == 0 and "before the prediction" in spec.pinned["a.bias[0]"]


def test_unknown_outputs_are_one_clear_error():
    model = Apply(hidden_and_logits, a=nn.Linear(5, 8), b=nn.Linear(8, 4))
    with pytest.raises(ValueError, match="outputs: the model returns no 'scores', only 'hidden', 'logits'"):
        infer_spec(model, X, outputs="scores")
    with pytest.raises(ValueError, match="outputs: the function fails .*KeyError"):
        infer_spec(model, X, outputs=lambda returned: returned["scores"])
    with pytest.raises(ValueError, match="outputs: the function returns no tensor"):
        infer_spec(model, X, outputs=lambda returned: None)
    with pytest.raises(ValueError, match="outputs: at least one name is needed"):
        infer_spec(model, X, outputs=[])


def test_one_output_of_a_tuple_by_its_number_and_a_part_of_one():
    model = Apply(two_heads, a=nn.Linear(5, 8), first=nn.Linear(8, 3), second=nn.Linear(8, 4))
    assert infer_spec(model, X, outputs=1).groups == {"a": 8}
    part = lambda returned: returned[1][..., :2]  # noqa: E731
    aligned = align(model, copy.deepcopy(model), X, outputs=part)
    torch.testing.assert_close(part(aligned(X)), part(model(X)))


def test_align_lets_free_outputs_move():
    make = lambda: Apply(hidden_and_logits, a=nn.Linear(5, 8), b=nn.Linear(8, 4))  # noqa: E731
    a, b = make(), make()
    aligned = align(a, b, X)
    torch.testing.assert_close(aligned(X)["logits"], b(X)["logits"])
    assert not torch.allclose(aligned(X)["hidden"], b(X)["hidden"])
    torch.testing.assert_close(align(a, b, X, outputs=["hidden", "logits"])(X)["hidden"], b(X)["hidden"])


# --- the proof


def test_a_wrong_rule_on_a_tiny_branch_is_caught(monkeypatch):
    from starlight_nb.permutation.rules import RULES
    monkeypatch.setitem(RULES, "cumsum", RULES["relu"])

    def forward(self, x):
        hidden = self.a(x)
        return self.b(hidden + self.scale * hidden.cumsum(-1))
    model = Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    model.scale = nn.Parameter(torch.full((8,), 1e-12))
    with pytest.warns(UserWarning, match="nothing to permute"):
        spec = infer_spec(model, X)
    assert any("changed the outputs" in why for why in spec.pinned.values())


def test_scores_may_be_infinite_and_factors_triangular():
    def forward(self, x):
        masked = self.b(self.a(x).relu()).masked_fill(torch.tensor([False, True, False]), -torch.inf)
        factor = torch.linalg.cholesky(self.covariance)
        return masked + torch.distributions.MultivariateNormal(self.mean, scale_tril=factor).mean
    model = Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    model.mean, model.covariance = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.eye(3))
    spec = infer_spec(model, X)
    assert spec.groups == {"a": 8}


def test_numbers_of_categories_among_fractions():
    def forward(self, x):
        kinds = x[..., 0].long()
        return self.b(torch.cat([self.words(kinds), self.a(x[..., 1:])], -1).relu())
    model = Apply(forward, words=nn.Embedding(4, 6), a=nn.Linear(4, 5), b=nn.Linear(11, 2))
    x = X.clone()
    x[..., 0] = torch.randint(4, x.shape[:-1])
    spec = infer_spec(model, x)
    assert sizes(spec) == [5, 6] and spec.coverage == 1


def test_a_masked_score_does_not_hide_the_others(monkeypatch):
    from starlight_nb.permutation.rules import RULES
    monkeypatch.setitem(RULES, "cumsum", RULES["relu"])

    def forward(self, x):
        scores = self.b(self.a(x).cumsum(-1))
        return scores + torch.tensor([0.0, -1e9, 0.0])
    with pytest.warns(UserWarning, match="nothing to permute"):
        assert not infer_spec(Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3)), X).groups


def test_a_part_that_a_gate_opens_later_is_proven_when_it_is_open():
    def forward(self, x):
        rows = self.rows[x.mean().gt(100).long()]  # read only for large inputs
        return self.b(self.a(x).relu()) + rows * torch.arange(4.0)[:, None].sum()
    model = Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    model.rows = nn.Parameter(torch.randn(2, 3))
    assert infer_spec(model, X).groups == {"a": 8}


def test_parameters_that_overlap_keep_their_order():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            numbers = torch.randn(8, 5)
            self.whole, self.part = nn.Parameter(numbers), nn.Parameter(numbers[:6])
            self.b, self.c = nn.Linear(8, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.b(F.linear(x, self.whole)) + self.c(F.linear(x, self.part))
    with pytest.warns(UserWarning, match="nothing to permute"):
        spec = infer_spec(Views(), X)
    assert "belongs to another tensor" in spec.pinned["part[0]"]


def test_random_numbers_of_the_program_stay():
    import random

    import numpy as np

    def forward(self, x):
        return self.b(self.a(x) + torch.rand(1) + random.random() + np.random.rand())
    model = Apply(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 2))
    states = [], []
    for found in states:
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        if found is states[1]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                infer_spec(model, X)
        found += [float(torch.rand(1)), random.random(), float(np.random.rand())]
    assert states[0] == states[1]


def test_noise_is_named_as_the_reason():
    def forward(self, x):
        latent = self.a(x)
        return self.c(self.b(latent + torch.randn_like(latent)).relu())
    model = Apply(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 8), c=nn.Linear(8, 2))
    spec = infer_spec(model, X)
    assert spec.groups == {"b": 8}
    assert "draws random numbers" in spec.pinned["a"]


def test_two_groups_of_two_that_must_move_together_are_caught():
    spec = PermutationSpec({"a": 2, "b": 2}, {
        "a.weight": (((("a", 2),),), None), "a.bias": (((("a", 2),),),), "b.weight": (None, ((("b", 2),),))},
        {"a.weight": (2, 5), "a.bias": (2,), "b.weight": (3, 2), "b.bias": (3,)})
    from starlight_nb.permutation.examples import clean_copy, split_examples
    from starlight_nb.permutation.proof import Proof, remove_failing_groups
    model = Apply(lambda self, x: self.b(self.a(x)), a=nn.Linear(5, 2), b=nn.Linear(2, 3))
    examples = split_examples(X)
    assert not remove_failing_groups(spec, Proof(clean_copy(model, examples[0]), examples)).groups


# --- what a spec tells


def test_entries_that_a_constant_picks_leave_the_others_free():
    model = Apply(lambda self, x: self.b(self.a(x)) + self.c(self.a(x)[..., [-2, -1]]),
                  a=nn.Linear(5, 8), b=nn.Linear(8, 2), c=nn.Linear(2, 2))
    spec = infer_spec(model, X)
    assert sizes(spec) == [2, 6] and change(model, spec, lambda network: network(X.double())) < 1e-12


def test_a_summary_has_three_lines():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.randn(12, 5))
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x):
            hidden = self.a(x + self.positions[:x.shape[1]]).relu()
            return self.c(self.b(hidden)[..., torch.tensor([3, 1, 1, 0])])
    lines = infer_spec(Parts(), X).summary().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["moves", "pinned", "not reached"]
    assert "b.weight[0]" in lines[1] and "positions" in lines[2]


def test_one_number_as_a_parameter_is_matched():
    def make():
        model = Apply(lambda self, x: self.b(self.a(x).relu()) * self.temperature, a=nn.Linear(5, 12), b=nn.Linear(12, 2))
        model.temperature = nn.Parameter(torch.tensor(1.0))
        return model
    a, b = make(), make()
    assert match_weights(infer_spec(a, X), a.state_dict(), b.state_dict()).permutation["a"].shape == (12,)
