"""What the example inputs do not reach is never free: entries of tables, modules, branches."""

import copy
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from starlight_nb.matching import align
from starlight_nb.models import build
from starlight_nb.permutation import check_spec, infer_spec, permute
from starlight_nb.permutation.examples import split_examples
from starlight_nb.permutation.proof import Proof
from starlight_nb.permutation.reach import groups_without_gradient, unreached_groups
from starlight_nb.permutation.trace import Trace

SHORT = torch.arange(12).reshape(2, 6) % 5
LONG = torch.arange(24).reshape(2, 12) % 5


def change(model, spec, run, seed=1):
    "How far a random permutation of `spec` moves what `run(model)` returns."
    model = copy.deepcopy(model).double().eval()
    moved = copy.deepcopy(model)
    order = spec.random(torch.Generator().manual_seed(seed))
    moved.load_state_dict(permute(spec, order, model.state_dict()))
    with torch.no_grad():
        before, after = run(model), run(moved)
    return float((before - after).abs().max() / before.abs().max())


def quiet_spec(model, example_inputs):
    "The spec, where no warning is given."
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return infer_spec(model, example_inputs)


class Table(nn.Module):
    "Words, and a table that `use` reads in part; the table's width is that of the words."

    def __init__(self, use, shape=(1, 12, 8)):
        super().__init__()
        self.use, self.words, self.table = use, nn.Embedding(5, 8), nn.Parameter(torch.randn(shape))
        self.hidden, self.top = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, text):
        return self.top(self.hidden(self.use(self.table, self.words(text))).relu().mean(1))


TABLES = {
    "slice": (lambda table, x: x + table[:, :x.shape[1]], (1, 12, 8)),
    "from the end": (lambda table, x: x + table[:, -x.shape[1]:], (1, 12, 8)),
    "scaled before": (lambda table, x: x + (2 * table).narrow(1, 0, x.shape[1]), (1, 12, 8)),
    "normalised before": (lambda table, x: x + F.normalize(table, dim=-1)[:, :x.shape[1]],
                          (1, 12, 8)),
    "transposed": (lambda table, x: x + table.mT[:, :x.shape[1]], (1, 8, 12)),
    "both axes": (lambda table, x: x + table[:x.shape[1], :x.shape[1]] @ x, (12, 12)),
    "bias of attention": (lambda table, x: x + (x @ x.mT + table[:x.shape[1], :x.shape[1]])
                          .softmax(-1) @ x, (12, 12)),
    "without gradients": (lambda table, x: x + table.detach().round()[:, :x.shape[1]], (1, 12, 8)),
}


@pytest.mark.parametrize("name", TABLES)
def test_entries_that_no_example_reaches_are_pinned_with_the_reason(name):
    torch.manual_seed(0)
    model = Table(*TABLES[name])
    spec = quiet_spec(model, SHORT)
    assert "not reached by the examples" in spec.pinned.values()
    assert spec.coverage < 1 and 8 in spec.groups.values() and 7 in spec.groups.values()
    for text in (SHORT, LONG):
        assert change(model, spec, lambda network: network(text)) < 1e-9
    both = quiet_spec(model, [SHORT, LONG])
    assert "not reached by the examples" not in both.pinned.values()
    assert change(model, both, lambda network: network(LONG)) < 1e-9


@pytest.mark.parametrize("length", [1, 6])
def test_a_flat_table_of_which_a_part_is_reached_pins_what_lies_in_it(length):
    torch.manual_seed(0)
    model = Table(lambda table, x: x + table.view(12, 8)[:x.shape[1]], (96,))
    spec = infer_spec(model, LONG[:, :length])
    assert spec.groups == {"hidden": 7}
    assert change(model, spec, lambda network: network(LONG)) < 1e-9
    assert infer_spec(model, LONG).groups == {"words": 8, "hidden": 7}


def test_positions_in_an_image_that_no_example_reaches():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 2)
            self.positions = nn.Parameter(torch.randn(1, 6, 8, 8))

        def forward(self, x):
            x = self.first(x).relu() + self.positions[:, :, :x.shape[2], :x.shape[3]]
            return self.last(x.relu().mean((2, 3)))

    model, large = Image(), torch.rand(2, 1, 8, 8)
    spec = quiet_spec(model, torch.randn(2, 1, 5, 5))
    assert spec.groups == {"first": 6} and spec.coverage < 1
    assert change(model, spec, lambda network: network(large.double())) < 1e-9


def test_a_network_of_which_an_example_runs_the_first_units():
    class Slim(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.last = nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, x, units):
            x = F.linear(x, self.wide.weight[:units], self.wide.bias[:units]).relu()
            return F.linear(x, self.last.weight[:, :units], self.last.bias)

    model, x = Slim(), torch.randn(4, 5)
    spec = quiet_spec(model, (x, 4))
    assert list(spec.groups.values()) == [4]
    # each of two hidden axes of weights and of a bias moves by a third
    assert spec.coverage == pytest.approx(1 / 3)
    for units in (4, 7, 12):
        assert change(model, spec, lambda network: network(x.double(), units)) < 1e-9
    both = quiet_spec(model, [(x, 4), (x, 12)])
    assert list(both.groups.values()) == [4, 8] and both.coverage == 1
    assert list(quiet_spec(model, {"x": x, "units": 12}).groups.values()) == [12]


def test_a_small_hidden_layer_that_is_cut_off_by_chance_is_reached():
    x, cut_off = torch.randn(1, 2), 0
    for seed in range(50):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).eval()
        spec = infer_spec(model, x)
        assert spec.groups == {"0": 2}
        proof = Proof(model, split_examples(x), torch.Generator().manual_seed(seed))
        cut_off += bool(groups_without_gradient(spec, proof))
        assert unreached_groups(spec, proof) == ([], {})
    assert cut_off, "some random networks have no gradient"


class Tasks(nn.Module):
    "A trunk, and one head for each of two tasks."

    def __init__(self, head=lambda: nn.Linear(12, 3)):
        super().__init__()
        self.trunk, self.heads = nn.Linear(6, 12), nn.ModuleList(head() for _ in range(2))

    def forward(self, x, task: int = 0):
        return self.heads[task](self.trunk(x).relu())


def norm_head(**options):
    norm = nn.BatchNorm1d(12, **options)
    norm.running_mean = torch.randn(12)
    norm.running_var = torch.rand(12) + 0.5
    return nn.Sequential(norm, nn.ReLU(), nn.Linear(12, 3))


HEADS = {
    "linear": lambda: nn.Linear(12, 3),
    "norm": norm_head,
    "norm without weights": lambda: norm_head(affine=False),
    "two layers": lambda: nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_no_example_runs_moves_along_with_the_only_units_that_it_can_read(head):
    torch.manual_seed(0)
    model, x = Tasks(HEADS[head]), torch.randn(4, 6)
    if head == "two layers":  # as many hidden units in the head that runs
        model.heads[0] = nn.Linear(12, 3)
    with pytest.warns(UserWarning, match=r"Tasks .* no example runs \(moved along.*: heads.1\)"):
        spec = infer_spec(model, x)
    assert spec.groups == {"trunk": 12}
    for task in (0, 1):
        assert change(model, spec, lambda network: network(x.double(), task)) < 1e-9
    assert quiet_spec(model, [(x, 0), (x, 1)]).groups["trunk"] == 12


def test_align_keeps_heads_that_no_example_runs():
    a, b, x = Tasks(), Tasks(), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="heads.1"):
        aligned = align(a, b, x)
    for task in (0, 1):
        torch.testing.assert_close(aligned(x, task), b(x, task))
    aligned = align(a, b, [(x, 0), (x, 1)], partial=True)
    torch.testing.assert_close(aligned(x, 1), b(x, 1))


CHOICES = {
    "outputs as many as hidden units": Tasks(lambda: nn.Linear(12, 12)),
    "a hidden layer as wide as the trunk": Tasks(
        lambda: nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))),
    "a grouped convolution": Tasks(
        lambda: nn.Sequential(nn.Unflatten(1, (12, 1)), nn.Conv1d(12, 6, 1, groups=3),
                              nn.Flatten())),
    "attention": Tasks(
        lambda: nn.Sequential(nn.TransformerEncoderLayer(12, 2, 9), nn.Linear(12, 3))),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_an_unrun_module_could_read_keeps_its_order_where_it_cannot_be_told(name):
    model, x = CHOICES[name].eval(), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="could read several axes, .*: heads.1"):
        spec = infer_spec(model, x)
    assert "trunk" not in spec.groups
    assert any("heads.1 could read it" in why for why in spec.pinned.values())
    assert change(model, spec, lambda network: network(x.double(), 1)) < 1e-9
    assert "trunk" in quiet_spec(model, [x, (x, 1)]).groups


def test_an_exit_may_read_any_layer_of_its_width():
    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*[nn.Linear(5, 5) for _ in range(3)])
            self.exits = nn.ModuleList(nn.Linear(5, 2) for _ in range(3))

        def forward(self, x, end=2):
            return self.exits[end](self.layers[:end + 1](x.tanh()).relu())

    model, x = Exits(), torch.randn(2, 5)
    with pytest.warns(UserWarning, match="could read several axes, .*: exits.0, exits.1"):
        spec = infer_spec(model, x)
    assert not spec.groups and spec.coverage == 0
    both = quiet_spec(model, [(x, end) for end in range(3)])
    assert list(both.groups.values()) == [5, 5, 5] and both.coverage == 1


def test_a_stem_for_other_inputs_reads_no_hidden_units():
    class Modes(nn.Module):
        "Two kinds of inputs; the second has as many features as a hidden layer has units."

        def __init__(self):
            super().__init__()
            self.first_stem, self.second_stem = nn.Linear(6, 12), nn.Linear(7, 12)
            self.narrow, self.last = nn.Linear(12, 7), nn.Linear(7, 3)

        def forward(self, first=None, second=None):
            x = self.second_stem(second) if first is None else self.first_stem(first)
            return self.last(self.narrow(x.relu()).relu())

    model, first, second = Modes(), torch.randn(2, 6), torch.randn(2, 7)
    with pytest.warns(UserWarning, match="could read several axes, .*: second_stem"):
        spec = infer_spec(model, first)
    assert change(model, spec, lambda network: network(second=second.double())) < 1e-9
    both = quiet_spec(model, [first, {"second": second}])
    assert sorted(both.groups.values()) == [7, 12]
    assert change(model, both, lambda network: network(second=second.double())) < 1e-9


def test_exits_read_images_that_are_pooled_or_flattened():
    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
            self.last, self.flat = nn.Linear(4, 3), nn.Linear(6 * 25, 3)
            self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))

        def forward(self, x, end=0):
            hidden = self.first(x).relu()
            if end == 1:
                return self.flat(hidden.flatten(1))
            if end == 2:
                return self.pooled(hidden)
            return self.last(self.second(hidden).relu().mean((2, 3)))

    model, x = Exits(), torch.randn(2, 1, 5, 5)
    with pytest.warns(UserWarning, match="flat.*pooled"):
        spec = infer_spec(model, [(x, 0)])
    with pytest.warns(UserWarning, match="flat"):
        moving = infer_spec(model, [(x, 0), (x, 2)])
    assert moving.groups == {"first": 6, "second": 4}
    assert moving.axes["flat.weight"][1] == ((("first", 6), (None, 25)),)
    for end in range(3):
        for found in (spec, moving, quiet_spec(model, [(x, 0), (x, 1), (x, 2)])):
            assert change(model, found, lambda network: network(x.double(), end)) < 1e-9


def test_a_mask_token_moves_with_the_stream_that_its_module_sees():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 3)
            self.mask = nn.Parameter(torch.randn(1, 1, 16))
            self.layer = nn.TransformerEncoderLayer(16, 4, 16, batch_first=True)

        def forward(self, x, masked=None):
            x = self.first(x)
            if masked is not None:
                x = torch.where(masked[..., None], self.mask, x)
            return self.last(self.layer(x).mean(1))

    model, x, masked = Masked().eval(), torch.randn(2, 6, 5), torch.arange(12).reshape(2, 6) % 3 == 0
    with pytest.warns(UserWarning, match=r"moved along.*: mask\)"):
        spec = infer_spec(model, x)
    assert spec.coverage == 1 and spec.groups["first"] == 16
    for mask in (None, masked):
        assert change(model, spec, lambda network: network(x.double(), mask)) < 1e-9
    assert spec.axes == quiet_spec(model, [x, (x, masked)]).axes


def test_branches_that_only_training_runs_are_traced():
    class Noisy(nn.Module):
        "Weights with noise of its own size in training."

        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs))
            self.size = nn.Parameter(torch.randn(outputs, inputs))

        def forward(self, x):
            if not self.training:
                return F.linear(x, self.weight)
            return F.linear(x, self.weight + self.size * torch.randn_like(self.weight))

    class Variational(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(5, 6)
            self.mean, self.spread = nn.Linear(12, 5), nn.Linear(12, 5)

        def forward(self, x):
            hidden = F.dropout(self.first(x).relu(), 0.5, self.training)
            code = self.mean(hidden)
            if self.training:
                code = code + torch.randn_like(code) * self.spread(hidden).exp()
            return self.last(code)

    x = torch.randn(4, 6)
    noisy = nn.Sequential(Noisy(6, 12), nn.ReLU(), Noisy(12, 3))
    spec = quiet_spec(noisy, x)
    assert spec.groups == {"0": 12} and spec.axes["0.size"] == spec.axes["0.weight"]
    assert spec.axes["2.size"] == spec.axes["2.weight"]
    spec = quiet_spec(Variational(), x)
    assert spec.groups == {"first": 12, "mean": 5}
    assert spec.axes["spread.weight"] == spec.axes["mean.weight"]


def test_auxiliary_classifiers_of_googlenet_move_along():
    model = torchvision.models.googlenet(
        num_classes=7, aux_logits=True, init_weights=False, weights=None)
    x = torch.randn(2, 3, 64, 64)
    spec = quiet_spec(model, x)
    assert spec.coverage == 1 and spec.axes["aux1.fc1.weight"][1] is not None

    def auxiliary(network):
        network.train()
        for part in network.modules():
            if isinstance(part, (nn.Dropout, nn.BatchNorm2d)):
                part.eval()
        return torch.cat(tuple(network(x.double())), 1)

    assert change(model, spec, auxiliary) < 1e-9


def test_training_that_cannot_be_traced_is_left_out():
    class WantsLabels(Tasks):
        def forward(self, x, labels=None):
            if self.training:
                return F.cross_entropy(self.heads[1](self.trunk(x)), labels)
            return self.heads[0](self.trunk(x).relu())

    with pytest.warns(UserWarning, match="no example runs .*: heads.1"):
        assert infer_spec(WantsLabels(), torch.randn(2, 6)).groups == {"trunk": 12}


def test_training_with_noise_of_its_own_is_left_out():
    class Random(Tasks):
        "Draws in training where PyTorch does not see it."

        def forward(self, x):
            hidden = self.trunk(x).relu()
            return self.heads[1](hidden * random.random()) if self.training else self.heads[0](hidden)

    with pytest.warns(UserWarning, match="no example runs .*: heads.1"):
        assert infer_spec(Random(), torch.randn(2, 6)).groups == {"trunk": 12}


def test_harmless_parameters_are_not_named():
    class Harmless(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
            self.again, self.norm = self.first, nn.BatchNorm1d(12)
            self.register_buffer("steps", torch.zeros(12, dtype=torch.long))
            self.temperature, self.none = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(0))
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.last(self.norm(self.first(x)).relu())

    assert quiet_spec(Harmless(), torch.randn(2, 6)).groups == {"first": 12}


class Words(nn.Module):
    "A classifier of words, and a head for words that shares its weight with the embedding."

    def __init__(self, hidden=12):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(20, 12), nn.Linear(12, hidden)
        self.last = nn.Linear(hidden, 3)
        self.back = nn.Identity() if hidden == 12 else nn.Linear(hidden, 12)
        self.words = nn.Linear(12, 20, bias=False)
        self.words.weight = self.embedding.weight

    def forward(self, text, words=False):
        hidden = self.hidden(self.embedding(text)).relu()
        return self.words(self.back(hidden)) if words else self.last(hidden)


@pytest.mark.parametrize("width", [12, 7])
def test_a_tied_head_that_no_example_calls_is_named_and_safe(width):
    a, b, text = Words(width), Words(width), SHORT
    with pytest.warns(UserWarning, match="no example runs .*words"):
        aligned = align(a, b, text)
    for words in (False, True):
        torch.testing.assert_close(aligned(text, words), b(text, words))
    both = [(text, words) for words in (False, True)]
    assert quiet_spec(Words(width), both).groups == (
        {"embedding": 12} if width == 12 else {"embedding": 12, "hidden": 7})


def test_a_tied_head_reads_the_only_axis_of_its_length():
    class Direct(Words):
        def forward(self, text, words=False):
            hidden = self.embedding(text)
            return self.words(hidden) if words else self.last(self.hidden(hidden).relu())

    model = Direct(7)
    model.back = nn.Identity()
    with pytest.warns(UserWarning, match=r"moved along with a tied tensor.*: words\)"):
        spec = infer_spec(model, SHORT)
    assert spec.groups == {"embedding": 12, "hidden": 7}
    for words in (False, True):
        assert change(model, spec, lambda network: network(SHORT, words)) < 1e-9


def test_an_embedding_that_is_another_name_of_one_that_runs_does_not_stop_it():
    class Shared(nn.Module):
        "As in T5: the table of all embeddings is a module that is never called."

        def __init__(self):
            super().__init__()
            self.shared, self.own = nn.Embedding(5, 8), nn.Embedding(5, 8)
            self.own.weight, self.last = self.shared.weight, nn.Linear(8, 3)

        def forward(self, text):
            return self.last(self.own(text).tanh().mean(1))

    with pytest.warns(UserWarning, match="moved along with a tied tensor.*: shared"):
        assert infer_spec(Shared(), SHORT).groups == {"shared": 8}


def test_attention_with_tied_weights_runs_as_a_whole():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.MultiheadAttention(8, 2) for _ in range(2))
            self.layers[1].out_proj.weight = self.layers[0].out_proj.weight
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x)
            for layer in self.layers:
                x = x + layer(x, x, x)[0]
            return self.last(x)

    assert quiet_spec(Twice(), torch.randn(3, 2, 6)).groups


BUFFERS = {
    "class means": (torch.randn(3, 12), lambda hidden, own: torch.cdist(hidden, own)),
    "a centre": (torch.randn(1, 12), lambda hidden, own: (hidden - own).square().sum(1)),
    "a mask": (torch.arange(12) % 3 == 0, lambda hidden, own: hidden.where(own, 0).sum(1)),
    "a queue": (torch.randn(12, 7), lambda hidden, own: hidden @ own),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_that_no_example_reads_are_named_and_safe(name):
    value, use = BUFFERS[name]

    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
            self.register_buffer("own", value.clone())

        def forward(self, x, other=False):
            hidden = self.first(x).relu()
            return use(hidden, self.own) if other else self.last(hidden)

    a, b, x = Buffered(), Buffered(), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="no example runs .*: own"):
        spec = infer_spec(b, x)
    assert spec.groups == ({"first": 12} if name in ("a centre", "a mask") else {})
    with pytest.warns(UserWarning, match="no example runs .*: own"):
        aligned = align(a, b, x)
    for other in (False, True):
        torch.testing.assert_close(aligned(x, other), b(x, other))


TRAINING = {
    "another path": lambda self, hidden: self.last(hidden.flip(1)),
    "a layer skipped": lambda self, hidden: self.last(hidden),
    "two outputs": lambda self, hidden: (self.last(self.middle(hidden).relu()),
                                         self.last(self.middle(self.middle(hidden)).relu())),
}


@pytest.mark.parametrize("name", TRAINING)
def test_branches_of_training_are_traced_where_all_their_modules_run_elsewhere(name):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle = nn.Linear(6, 12), nn.Linear(12, 12)
            self.last = nn.Linear(12, 3)

        def forward(self, x):
            hidden = self.first(x).relu()
            if self.training:
                return TRAINING[name](self, hidden)
            return self.last(self.middle(hidden).relu())

    a, b, x = Branches(), Branches(), torch.randn(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be nothing to permute
        aligned = align(a, b, x)
    for training in (False, True):
        torch.testing.assert_close(aligned.train(training)(x), b.train(training)(x))


NOISE = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "added": lambda x: x + 0.1 * torch.randn(x.shape),
    "masks": lambda x: x * torch.empty(x.shape).bernoulli_(0.5),
    "nothing else": lambda x: x,
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_of_training_costs_no_symmetries(name):
    class Noisy(nn.Module):
        def forward(self, x):
            return NOISE[name](x) if self.training else x

    model = nn.Sequential(nn.Linear(6, 12), Noisy(), nn.ReLU(), nn.Linear(12, 3))
    assert quiet_spec(model, torch.randn(4, 6)).groups == {"0": 12}
    modes = [example.mode for example in Trace(model, torch.randn(4, 6)).examples]
    assert modes == (["evaluation"] if name in ("nothing else", "dropout") else ["evaluation", "training"])


def test_no_warnings_of_the_trace_reach_users():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(self.first(x)[0])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert infer_spec(Recurrent(), torch.randn(2, 3, 6)).groups == {"first": 5}


@pytest.mark.parametrize("parts", [("x", "h"), ("h", "g"), ("h", "g", "x")])
def test_a_head_may_read_layers_side_by_side(parts):
    lengths = {"x": 5, "h": 13, "g": 17}

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(5, 13), nn.Linear(13, 17), nn.Linear(17, 3)
            self.wide = nn.Linear(sum(lengths[part] for part in parts), 2)

        def forward(self, x, wide=False):
            own = {"x": x, "h": self.first(x).relu()}
            own["g"] = self.second(own["h"]).relu()
            return self.wide(torch.cat([own[part] for part in parts], 1)) if wide else self.last(own["g"])

    a, b, x = Beside(), Beside(), torch.randn(4, 5)
    with pytest.warns(UserWarning, match="which keep their order: wide"):
        aligned = align(a, b, x)
    for wide in (False, True):
        torch.testing.assert_close(aligned(x, wide), b(x, wide))


class Block(nn.Module):
    "A residual block with a norm, a table and a layer that only the mode `other` runs."

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 7), nn.Linear(7, 12)
        self.norm, self.shift = nn.LayerNorm(12), nn.Parameter(torch.randn(12))

    def forward(self, x, other):
        if other:
            x = self.norm(x) + self.shift
        return x + self.second(self.first(x).relu())


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.stem = nn.Linear(6, 12), nn.Linear(12, 12)
        self.last = nn.Linear(12, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        with torch.no_grad():
            for block in self.blocks:
                block.norm.weight.normal_()

    def forward(self, x, other=False):
        x = self.stem(self.before(x).relu())
        for block in self.blocks:
            x = block(x, other)
        return self.last(x)


class Biases(nn.Module):
    "Heads with biases; two more, one of them with two rows, are used in the other mode."

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.first, self.second, self.third = (nn.Parameter(torch.randn(3, 4)) for _ in range(3))
        self.rows = nn.Parameter(torch.randn(2, 3, 4))

    def forward(self, x, other=False):
        x = self.stem(x).unflatten(1, (3, 4))
        x = (x + self.first).tanh() + (x + self.second).relu()
        if other:
            x = x * self.third + self.rows[1]
        return self.last(x.flatten(1))


class Experts(nn.Module):
    "Three experts between layers of the same width; each row goes to one of them."

    def __init__(self):
        super().__init__()
        self.stem, self.before = nn.Linear(6, 12), nn.Linear(12, 12)
        self.after, self.last = nn.Linear(12, 12), nn.Linear(12, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12)) for _ in range(3))

    def forward(self, x, other=False):
        x = self.before(self.stem(x).relu()).relu()
        used = self.experts[2:] if other else self.experts[:2]
        return self.last(self.after(sum(expert(x) for expert in used)).relu())


class Wrapper(nn.Module):
    "A layer, and the layer that it stands in for."

    def __init__(self):
        super().__init__()
        self.original, self.copy = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x, other):
        return self.original(x) if other else self.copy(x)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.hidden, self.last = nn.Linear(6, 12), nn.Linear(12, 12), Wrapper()

    def forward(self, x, other=False):
        return self.last(self.hidden(self.stem(x).relu()).relu(), other)


class Rounded(nn.Module):
    "A layer with a copy of its weights that is rounded to whole numbers."

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.randn(outputs))
        self.register_buffer("whole", (10 * self.weight.data).round())
        self.register_buffer("whole_bias", (10 * self.bias.data).round())

    def forward(self, x, other=False):
        weight, bias = (self.whole, self.whole_bias) if other else (self.weight, self.bias)
        return x @ weight.T + bias


class Copies(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Rounded(6, 12), Rounded(12, 12), Rounded(12, 3)])

    def forward(self, x, other=False):
        for layer in self.layers:
            x = layer(x, other).tanh()
        return x


class Codes(nn.Module):
    "A table of codes, and its average over time, which another mode reads."

    def __init__(self):
        super().__init__()
        self.stem, self.hidden, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.table = nn.Embedding(5, 12)
        self.register_buffer("average", torch.randn(5, 12))

    def forward(self, x, other=False):
        table = self.average if other else self.table.weight
        x = self.stem(x)
        x = x + (x @ table.T).softmax(1) @ table
        return self.last(self.hidden(x.relu()).relu())


class Merge(nn.Module):
    "Adds what an earlier block made, where there is one."

    def __init__(self):
        super().__init__()
        self.own, self.earlier = (nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
                                  for _ in range(2))
        self.out = nn.Linear(12, 12)

    def forward(self, x, earlier=None):
        x = x + self.own(x)
        if earlier is not None:
            x = x + self.earlier(earlier) * self.own[0].bias.mean()
        return self.out(x.relu())


class Merges(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.merges = nn.ModuleList(Merge() for _ in range(3))

    def forward(self, x, other=False):
        stream = self.stem(x)
        x = self.merges[0](stream, stream if other else None)
        for merge in self.merges[1:]:
            x = merge(x, x)
        return self.last(x)


class Vocabulary(nn.Module):
    "Reads words where it is not given vectors."

    def __init__(self):
        super().__init__()
        self.words, self.hidden = nn.Embedding(5, 12), nn.Linear(12, 7)

    def forward(self, x, other):
        return self.hidden(x + self.words.weight[:len(x)] if other else x)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.text, self.last = nn.Linear(6, 12), Vocabulary(), nn.Linear(7, 3)

    def forward(self, x, other=False):
        return self.last(self.text(self.stem(x), other).relu())


class Features(nn.Module):
    "Returns its last hidden units; a classifier follows in the other mode."

    def __init__(self):
        super().__init__()
        self.stem, self.middle = nn.Linear(6, 8), nn.Linear(8, 5)
        self.wide, self.classifier = nn.Linear(5, 20), nn.Linear(20, 12)

    def forward(self, x, other):
        x = self.middle(self.stem(x).relu()).relu()
        return self.classifier(self.wide(x).relu()) if other else x


class Featured(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.last = Features(), nn.Linear(5, 12)

    def forward(self, x, other=False):
        x = self.features(x, other)
        return x if other else self.last(x)


class Forgotten(nn.Module):
    "A layer that is made and never used."

    def __init__(self):
        super().__init__()
        self.stem, self.last, self.forgotten = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 12)

    def forward(self, x, other=False):
        return self.last(self.stem(x).relu())


UNRUN = {
    "a norm and a parameter of a block": (Blocks, r"moved along.*: blocks\.0\.shift"),
    "more biases": (Biases, r"moved along.*: third, rows"),
    "an expert": (Experts, r"moved along.*: experts\.2"),
    "a layer and its stand-in": (Wrapped, r"moved along.*: last\.original"),
    "copies in whole numbers": (Copies, r"moved along.*: layers\.0\.whole"),
    "an average of codes": (Codes, r"moved along.*: average"),
    "a layer that the first block skips": (Merges, r"moved along.*: merges\.0\.earlier"),
    "words instead of vectors": (Embedded, r"moved along.*: text\.words"),
    "a classifier behind features": (Featured, r"moved along.*: features\.wide"),
    "a layer that no code uses": (Forgotten, r"no code of the network uses them: forgotten"),
}


@pytest.mark.parametrize("name", UNRUN)
def test_unrun_parts_cost_no_symmetries_where_the_network_shows_how_they_move(name):
    torch.manual_seed(0)
    kind, message = UNRUN[name]
    model, x = kind(), torch.randn(4, 6)
    with pytest.warns(UserWarning, match=message):
        spec = infer_spec(model, x)
    assert spec.coverage == 1
    for other in (False, True):
        assert change(model, spec, lambda network: network(x.double(), other)) < 1e-9


def test_attention_to_other_inputs_is_not_taken_for_attention_to_the_same():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = nn.Linear(12, 5), nn.Linear(12, 5), nn.Linear(12, 12)

        def forward(self, x, other):
            return (self.query(x) @ self.key(other).mT).softmax(-1) @ self.value(other)

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
            self.same, self.cross = Layer(), Layer()

        def forward(self, x, other=None):
            x = self.stem(x)
            x = x + self.same(x, x)
            return self.last(x if other is None else x + self.cross(x, other))

    model, x, other = Attending(), torch.randn(4, 6), torch.randn(4, 12)
    with pytest.warns(UserWarning, match="could read several axes, .*: cross"):
        spec = infer_spec(model, x)
    assert change(model, spec, lambda network: network(x.double(), other.double())) < 1e-9


def test_a_single_sibling_says_nothing_of_an_exit():
    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 12)
            self.early, self.late = nn.Linear(12, 3), nn.Linear(12, 3)

        def forward(self, x, early=False):
            hidden = self.first(x).relu()
            return self.early(hidden) if early else self.late(self.second(hidden).relu())

    model, x = Exits(), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="could read several axes, .*: early"):
        assert not infer_spec(model, x).groups


def test_a_module_that_can_read_nothing_is_named_all_the_same():
    model = Tasks()
    model.other = nn.Linear(50, 40)
    with pytest.warns(UserWarning, match="may not be safe, .*: other"):
        assert infer_spec(model, [(torch.randn(2, 6), task) for task in (0, 1)]).groups


def test_a_spec_must_hold_for_each_example():
    class Flipped(nn.Module):
        "Permutable in one mode, and with units in their own order in the other."

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x, flip=False):
            hidden = self.first(x).relu()
            return self.last(hidden.cumsum(1) if flip else hidden)

    model, x = Flipped(), torch.randn(3, 4)
    spec = infer_spec(model, x)
    assert spec.groups == {"first": 6}
    with pytest.warns(UserWarning, match="nothing to permute"):
        assert not infer_spec(model, [x, (x, True)]).groups
    assert max(check_spec(model, spec, x).values()) < 1e-9
    with pytest.raises(ValueError, match="outputs change under 'first'"):
        check_spec(model, spec, [x, (x, True)])


def test_examples_of_the_wrong_form_are_one_clear_error():
    model, x = build("mlp"), torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match="example_inputs: at least one example is needed"):
        infer_spec(model, [])
    with pytest.raises(ValueError, match=r"example_inputs\[1\]: an example is a tensor, a tuple"):
        infer_spec(model, [x, [x]])
    with pytest.raises(ValueError, match=r"example_inputs\[1\]: Sequential does not accept them"):
        infer_spec(model, [x, torch.randn(2, 3)])
