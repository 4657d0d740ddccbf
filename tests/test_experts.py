"""Experts and codes that are picked by a looked-up number move with the axis of the look-up.

A small mixture has a router `r` and stacked weights `a` of four experts. Where the number of an
expert does nothing but pick, rows of the router and experts are one group; permuted weights give
the same outputs. Where the number is used in another way, both keep their order."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from starlight_nb.permutation import infer_spec, permute

EXPERTS, TOLERANCE = 4, 1e-9


class Mixture(nn.Module):
    def __init__(self, mix, experts=EXPERTS, weights=EXPERTS):
        super().__init__()
        self.i, self.r, self.o = nn.Linear(3, 6), nn.Linear(6, experts), nn.Linear(5, 2)
        self.a = nn.Parameter(torch.randn(weights, 6, 5))
        self.mix = mix

    def forward(self, x):
        h = self.i(x).tanh()
        mixed = self.mix(self, h, self.r(h).softmax(-1))
        if isinstance(mixed, tuple):
            return (self.o(mixed[0]), *mixed[1:])
        return self.o(mixed)


def by_index(net, h, share):
    top, index = share.topk(2)
    return (torch.einsum("bi,bkio->bko", h, net.a[index]) * top[..., None]).sum(1)


def by_largest(net, h, share):
    top, index = share.max(-1)
    return torch.einsum("bi,bio->bo", h, net.a.index_select(0, index)) * top[:, None]


def by_one_hot(net, h, share):
    top, index = share.topk(2)
    chosen = (F.one_hot(index, EXPERTS) * top[..., None]).sum(1)
    return torch.einsum("bi,eio,be->bo", h, net.a, chosen)


def by_scatter(net, h, share):
    top, index = share.topk(2)
    chosen = torch.zeros_like(share).scatter_(1, index, top)
    return torch.einsum("bi,eio,be->bo", h, net.a, chosen)


def by_results(net, h, share):
    "All experts run, and the results of the best ones are gathered."
    top, index = share.sort(-1, descending=True)
    results = torch.einsum("bi,eio->beo", h, net.a)
    best = results.take_along_dim(index[..., None], 1)[:, :2]
    return (best * top[:, :2, None]).sum(1)


def by_places(net, h, share):
    "Each expert has a list with a place for each row."
    top, index = share.max(-1)
    mask = F.one_hot(index, EXPERTS)
    places = mask[..., None] * F.one_hot((mask.cumsum(0) - 1) * mask, len(h))
    places = places.to(h.dtype)
    results = torch.einsum("bec,bi,eio->eco", places, h, net.a)
    return torch.einsum("bec,eco->bo", places, results) * top[:, None]


def sorted_by_expert(net, h, share):
    "Rows in the order of their experts, with the share of each, and their order."
    top, index = share.topk(2)
    number, order = index.flatten().sort()
    rows = torch.einsum("bi,bio->bo", h[order // 2], net.a[number])
    return rows * top.flatten()[order, None], order


def by_sorted_rows(net, h, share):
    rows, order = sorted_by_expert(net, h, share)
    return rows[order.argsort()].view(-1, 2, 5).sum(1)


def by_counted_rows(net, h, share):
    "Rows are sorted by expert, and counted; a grouped product is in single precision."
    top, index = share.topk(2)
    number, order = index.flatten().sort()
    ends = torch.histc(number.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0, dtype=torch.int32)
    padded = [F.pad(own.float(), (0, width)) for own, width in ((h[order // 2], 2), (net.a, 3))]
    padded[1] = F.pad(padded[1], (0, 0, 0, 2))
    rows = torch._grouped_mm(*padded, offs=ends)[:, :5] * top.flatten()[order, None]
    back = torch.empty_like(order).index_put((order,), torch.arange(len(order)))
    return rows[back].view(-1, 2, 5).sum(1).to(h.dtype)


def by_groups(net, h, share):
    "Only the experts of the better one of two groups."
    group = share.view(-1, 2, 2).sum(-1)
    mask = torch.zeros_like(group).scatter(1, group.topk(1)[1], 1)
    mask = mask[..., None].expand(-1, 2, 2).reshape(-1, EXPERTS)
    return by_index(net, h, share * mask)


PICKED_ALONE = {
    **dict.fromkeys([by_index, by_largest, by_one_hot, by_scatter], TOLERANCE),
    **dict.fromkeys([by_results, by_places, by_sorted_rows], TOLERANCE),
    by_counted_rows: 1e-5,
}


def moves(net, x):
    "The spec, and the largest change of the outputs under five random permutations."
    net = net.double().eval()
    spec = infer_spec(net, x)
    generator = torch.Generator().manual_seed(1)
    changes = []
    with torch.no_grad():
        reference = net(x)
        for _ in range(5):
            state = permute(spec, spec.random(generator), net.state_dict())
            changes.append((torch.func.functional_call(net, state, x) - reference).abs().max())
    return spec, float(max(changes))


def example():
    return torch.randn(9, 3, dtype=torch.double, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("mix", PICKED_ALONE)
def test_experts_move_with_the_rows_of_their_router(mix):
    spec, change = moves(Mixture(mix), example())
    assert change <= PICKED_ALONE[mix]
    assert spec.axes["r.weight"][0] == spec.axes["r.bias"][0] == spec.axes["a"][0]
    ((group, size),), = spec.axes["a"][0]
    assert size == spec.groups[group] == EXPERTS and sorted(spec.groups.values()) == [4, 5, 6]


def test_groups_of_experts_are_blocks():
    spec, change = moves(Mixture(by_groups), example())
    assert change <= TOLERANCE and sorted(spec.groups.values()) == [2, 4, 5, 6]
    assert spec.axes["r.weight"][0] == spec.axes["a"][0] and len(spec.blocks) == 1



def also_returned(net, h, share):
    top, index = share.max(-1)
    return torch.einsum("bi,bio->bo", h, net.a[index]) * top[:, None], index


def compared(net, h, share):
    top, index = share.max(-1)
    top = top * (index != 0)
    return torch.einsum("bi,bio->bo", h, net.a[index]) * top[:, None]


def as_a_value(net, h, share):
    top, index = share.max(-1)
    return torch.einsum("bi,bio->bo", h, net.a[index]) * index[:, None]


def next_one(net, h, share):
    return torch.einsum("bi,bio->bo", h, net.a[(share.argmax(-1) + 1) % EXPERTS])


@pytest.mark.parametrize("mix", [also_returned, compared, as_a_value, next_one])
@pytest.mark.parametrize("rows", [1, 9])
def test_numbers_that_are_used_otherwise_fix_the_order(mix, rows):
    spec = infer_spec(Mixture(mix).double(), example()[:rows])
    assert spec.pinned["r.weight[0]"] == "an axis in which a position is looked up"
    assert spec.pinned["a[0]"] == "entries that are picked by an index"
    assert spec.axes["a"][1] and sorted(spec.groups.values()) == [5, 6]


def test_an_axis_of_another_length_is_not_the_same():
    spec = infer_spec(Mixture(by_index, weights=EXPERTS + 1).double(), example())
    assert {"r.weight[0]", "a[0]"} <= spec.pinned.keys() and sorted(spec.groups.values()) == [5, 6]


def test_the_proof_takes_out_experts_whose_rows_are_not_put_back():
    "Only their group: the other one stays."
    def mix(net, h, share):
        return sorted_by_expert(net, h, share)[0].view(-1, 2, 5).sum(1)

    spec, change = moves(Mixture(mix), example())
    assert change <= TOLERANCE and sorted(spec.groups.values()) == [5, 6]
    assert any("permuting it changed the outputs" in why for why in spec.pinned.values())
    assert {"r.weight[0]", "a[0]"} <= spec.pinned.keys()


def test_codes_of_a_quantiser_move():
    class Quantiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.codes, self.o = nn.Linear(3, 6), nn.Embedding(8, 6), nn.Linear(6, 2)

        def forward(self, x):
            z = self.i(x)
            return self.o(z + self.codes(torch.cdist(z, self.codes.weight).argmin(-1)))

    spec, change = moves(Quantiser(), example())
    assert change <= TOLERANCE and sorted(spec.groups.values()) == [6, 8]
