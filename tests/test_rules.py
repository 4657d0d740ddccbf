"""Every rule against its operation: what may move leaves a small network as it is, and what truly moves is found.

An operation stands between linear layers of four units. The spec is read off the graph, without the library's proof. The
network itself decides: which orders of the four units does another order of the operation's result make up for?
"""
import inspect
import warnings
from importlib.util import find_spec
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from starlight_nb.permutation import permute
from starlight_nb.permutation.groups import spec_from_trace
from starlight_nb.permutation.trace import Trace

UNITS, TIME, FEATURES, TOLERANCE = 4, 5, 3, 1e-9
numbers = torch.tensor
AFTER, WINDOW = numbers([[0, 1, 1, 2, 0]]), numbers([0, 2])


def along_time(values):
    "The same numbers for every unit: (2, times, units)."
    return numbers(values)[None, :, None].expand(2, -1, UNITS)


def each(x):
    "A value for every unit of every step from one for every step."
    return x[..., None].expand(*x.shape, 2)


def heads(x):
    return x.unflatten(-1, (2, 2)).transpose(1, 2)


def image(x):
    "Units as channels of a plane: (2, 4, 5, 5)."
    return x.mT[..., None] * torch.linspace(0.5, 1.5, 5, dtype=x.dtype)


def last(x):
    "Channels of a plane as units, its positions as steps."
    return x.flatten(2).mT


def square(x):
    "A matrix (2, 4, 4) with units as rows and as columns."
    return x.mT @ x + torch.eye(UNITS, dtype=x.dtype)


def vector(x):
    return x[0, 0]


def buffer(*shape):
    return torch.linspace(-1, 1, int(np.prod(shape)), dtype=torch.double).sin().reshape(shape)


class Filled(nn.Module):
    def forward(self, a):
        out = torch.zeros(2, 3, UNITS, dtype=a.dtype)
        out.index_add_(1, numbers([0, 1, 1, 2, 0]), a)
        return out


BINARY = """atan2 hypot logaddexp logaddexp2 heaviside copysign fmod nextafter xlogy maximum fmin add mul""".split()
CALLS = {
    # one entry after the other
    **{name: getattr(torch, name) for name in ("sin", "erf", "sinc", "sgn", "i0", "digamma", "lgamma",
        "deg2rad", "signbit", "frac", "positive", "expm1", "asinh")},
    **{f"special_{name}": getattr(torch.special, name) for name in ("entr", "i1", "erfcx", "ndtr", "log_ndtr",
        "bessel_j0")},
    **{name: getattr(F, name) for name in ("relu", "celu", "hardswish", "mish", "softsign", "tanhshrink",
        "logsigmoid", "selu", "hardtanh", "relu6")},
    "erfinv": lambda a: torch.erfinv(a.tanh() * 0.9),
    "polygamma": lambda a: torch.polygamma(1, a.abs() + 1),
    "relu_": lambda a: (a + 1).relu_(),
    "celu_": lambda a: F.celu(a + 1, inplace=True),
    **{name: getattr(torch, name) for name in BINARY},
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "where": lambda a, b: torch.where(a > 0, b, 0.0),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "to": lambda a, b: a.float().to(b) + b,
    "type_as": lambda a, b: a.type_as(b),
    "ldexp": lambda a: torch.ldexp(a, numbers([1])),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 2.0),
    "fake_quantize": lambda a: torch.fake_quantize_per_tensor_affine(a.float(), 0.1, 0, -128, 127).double(),
    "fake_quantize_channels": lambda a: (
        torch.fake_quantize_per_channel_affine(a.float(), torch.full((UNITS,), 0.1), torch.zeros(UNITS,
        dtype=torch.int32), 2, -128, 127).double()),
    "bucketize": lambda a: torch.bucketize(a, numbers([-0.5, 0.0, 0.5], dtype=torch.double)).double(),
    "searchsorted": lambda a: torch.searchsorted(numbers([-0.5, 0.0, 0.5], dtype=torch.double), a).double(),
    "isin": lambda a: a + torch.isin(a.long(), numbers([0])).double(),
    "complex": lambda a, b: torch.view_as_real(torch.complex(a, b)).sum(-1),
    "polar": lambda a, b: torch.polar(a, b).imag,
    "view_as_complex": lambda a, b: torch.view_as_complex(torch.stack([a, b], -1)).abs(),
    # constants
    "zeros_like": lambda a: a + torch.zeros_like(a),
    "tril": lambda a: torch.tril(torch.ones(TIME, TIME, dtype=a.dtype)) @ a,
    "tril_of_units": lambda a: torch.tril(square(a)),
    "one_hot": lambda a: torch.einsum("tk,bku->btu", F.one_hot(AFTER[0], TIME).double(), a),
    "full": lambda a: a * torch.full((UNITS,), 2.0),
    "filled": Filled(),
    # products
    "matmul": lambda a, b: a @ b.mT @ a,
    "linear": lambda a: F.linear(a, buffer(6, UNITS)),
    "bmm": lambda a, b: torch.bmm(a, b.mT),
    "baddbmm": lambda a, b: torch.baddbmm(a, a @ a.mT, b),
    "addbmm": lambda a, b: torch.addbmm(a[0], a @ a.mT, b),
    "addmm": lambda a, b: torch.addmm(a[0], a[0] @ a[0].mT, b[0]),
    "addmv": lambda a, b: torch.addmv(vector(a), square(b)[0], vector(a)),
    "addr": lambda a, b: torch.addr(square(a)[0], vector(a), vector(b)),
    "vdot": lambda a, b: a * torch.vdot(vector(a), vector(b)),
    "outer": lambda a, b: torch.outer(vector(a), vector(b)),
    "inner": lambda a, b: torch.inner(a, b).flatten(2),
    "tensordot": lambda a, b: torch.tensordot(a, b, dims=([2], [2])).flatten(2),
    "vecdot": lambda a, b: each(torch.linalg.vecdot(a, b)),
    "tensordot_outer": lambda a, b: torch.tensordot(vector(a), vector(b), dims=0),
    "kron": lambda a, b: torch.kron(vector(a)[:, None], vector(b)[None]),
    "kron_flat": lambda a, b: torch.kron(vector(a), vector(b))[None],
    "chain": lambda a, b: torch.linalg.multi_dot([a[0], b[0].mT, a[1]]),
    "bilinear": lambda a, b: F.bilinear(a, b, buffer(3, UNITS, UNITS)),
    "einsum": lambda a, b: torch.einsum("btu,bsu->bts", a, b),
    "einsum_diagonal": lambda a: torch.einsum("buu->bu", square(a)),
    "einsum_trace": lambda a: a * torch.einsum("buu", square(a))[:, None, None],
    "trace": lambda a: a * torch.trace(square(a)[0]),
    "diagonal": lambda a: square(a).diagonal(0, 1, 2),
    "diagonal_off": lambda a: square(a).diagonal(1, 1, 2),
    "diag": lambda a: torch.diag(vector(a)),
    "diag_of_matrix": lambda a: torch.diag(square(a)[0])[None],
    "diag_embed": lambda a: torch.diag_embed(a).sum(-1),
    "block_diag": lambda a, b: torch.block_diag(a[0], b[0]),
    "attention": lambda a, b: F.scaled_dot_product_attention(a, b, a),
    "causal": lambda a: F.scaled_dot_product_attention(a, a, a, is_causal=True),
    "heads": lambda a, b: F.scaled_dot_product_attention(heads(a), heads(b), heads(a)).transpose(1, 2).flatten(2),
    "shared_heads": lambda a, b: (
        F.scaled_dot_product_attention(*(own.unflatten(-1, (-1, 1)).transpose(1, 2) for own in (a, b[..., :2],
        b[..., 2:])), enable_gqa=True).transpose(1, 2).flatten(2)),
    "cdist": lambda a, b: torch.cdist(a, b) @ a,
    "pdist": lambda a: torch.pdist(a[0])[None],
    "pdist_of_units": lambda a: torch.pdist(a[0].T)[None],
    "cosine": lambda a, b: each(F.cosine_similarity(a, b, dim=-1)),
    "cosine_time": lambda a, b: F.cosine_similarity(a, b, dim=1),
    "pairwise": lambda a, b: each(F.pairwise_distance(a, b)),
    "dist": lambda a, b: a / torch.dist(a, b),
    # linear algebra
    "inv": lambda a: torch.linalg.inv(square(a)),
    "pinv": lambda a: torch.linalg.pinv(a),
    "solve": lambda a, b: torch.linalg.solve(square(a), b.mT).mT,
    "matrix_exp": lambda a: torch.linalg.matrix_exp(square(a) / 9),
    "matrix_power": lambda a: torch.linalg.matrix_power(square(a), 3),
    "det": lambda a: a * torch.linalg.det(square(a))[:, None, None],
    "logdet": lambda a: a * torch.logdet(square(a))[:, None, None],
    "slogdet": lambda a: a * torch.linalg.slogdet(square(a))[1][:, None, None],
    "cholesky": lambda a: torch.linalg.cholesky(square(a)),
    "qr": lambda a: torch.linalg.qr(square(a))[1],
    "svdvals": lambda a: torch.linalg.svdvals(a),
    "eigvalsh": lambda a: torch.linalg.eigvalsh(square(a)),
    "matrix_norm": lambda a: a / torch.linalg.matrix_norm(a, keepdim=True),
    "nuclear": lambda a: a / torch.linalg.matrix_norm(a, "nuc", keepdim=True),
    "cov": lambda a: torch.cov(a[0].T),
    "cross": lambda a, b: torch.linalg.cross(a[:, :3], b[:, :3], dim=1),
    # moving
    "permute": lambda a: a.permute(1, 0, 2),
    "flip": lambda a: a.flip(-1),
    "flip_time": lambda a: a.flip(1),
    "roll": lambda a: a.roll(1, -1) + a,
    "rot90": lambda a: torch.rot90(a, 1, (1, 2)).mT,
    "unbind": lambda a: torch.stack(a.unbind(1)[:2], 1),
    "chunk": lambda a: torch.cat(a.chunk(2, -1)[::-1], -1),
    "select": lambda a: a * a[:, :, 3:],
    "select_one": lambda a: a * a[:, :, 3][..., None],
    "select_time": lambda a: a[:, -1],
    "narrow": lambda a: a.narrow(-1, 1, 2),
    "slice_step": lambda a: a[..., ::2],
    "glu": lambda a: F.glu(a),
    "stack": lambda a, b: torch.stack([a, b]).sum(0),
    "stack_flat": lambda a, b: torch.stack([a, b], -1).flatten(-2),
    "stack_heads": lambda a, b: torch.stack([a, b], 2).flatten(2),
    "rotate": lambda a: a + torch.stack((-a[..., 1::2], a[..., ::2]), -1).flatten(-2),
    "rotate_half": lambda a: a + torch.cat((-a[..., 2:], a[..., :2]), -1) * 2,
    "cat": lambda a, b: torch.cat([a, b], -1),
    "cat_zeros": lambda a: torch.cat([a, torch.zeros(2, TIME, 3, dtype=a.dtype)], -1),
    "hstack": lambda a, b: torch.hstack([vector(a), vector(b)])[None],
    "vstack": lambda a, b: torch.vstack([vector(a), vector(b)]),
    "dstack": lambda a, b: torch.dstack([a[0], b[0]]).sum(-1),
    "column_stack": lambda a, b: torch.column_stack([vector(a), vector(b)]).T,
    "atleast": lambda a: torch.atleast_2d(vector(a)),
    "expand": lambda a: a[:, :1].expand(-1, 7, -1),
    "repeat": lambda a: a.repeat(1, 1, 2),
    "tile": lambda a: a.tile(2),
    "interleave": lambda a: a.repeat_interleave(2, -1),
    "interleave_counts": lambda a: a.repeat_interleave(numbers([1, 2, 0, 1, 1]), 1),
    "meshgrid": lambda a, b: sum(torch.meshgrid(vector(a), vector(b), indexing="ij")),
    "meshgrid_xy": lambda a, b: torch.meshgrid(vector(a), vector(b), indexing="xy")[0],
    "broadcast": lambda a: torch.broadcast_tensors(a, a[:, :1])[1],
    "pad": lambda a: F.pad(a, (1, 2)),
    "pad_negative": lambda a: F.pad(a, (-1, 0)),
    "pad_time": lambda a: F.pad(a, (0, 0, -1, 2)),
    "pad_reflect": lambda a: F.pad(a, (1, 1), mode="reflect"),
    "pad_circular": lambda a: F.pad(a.mT, (1, 1), mode="circular").mT,
    "unfold": lambda a: a.unfold(1, 2, 1).mean(-1),
    "unfold_units": lambda a: a.unfold(2, 2, 2).flatten(2),
    "unfold_overlap": lambda a: a.unfold(2, 2, 1).mean(-1),
    "as_strided": lambda a: (a + 0).as_strided((2, TIME, UNITS), (TIME * UNITS, UNITS, 1)),
    "as_strided_view": lambda a: a.mT.as_strided((2, 3, 2, UNITS), (TIME * UNITS, UNITS, UNITS, 1)).mean(2),
    "cartesian": lambda a, b: torch.cartesian_prod(vector(a), vector(b)).T,
    "combinations": lambda a: torch.combinations(vector(a)).T,
    "movedim": lambda a: a.movedim(-1, 0).movedim(0, -1),
    "view_dims": lambda a: a.view(2, TIME, 2, 2).mean(-1),
    "heads_sum": lambda a: a.view(2, TIME, 2, 2).sum(-2),
    "heads_softmax": lambda a: a.view(2, TIME, 2, 2).softmax(-1).flatten(2),
    # sums
    **{name: lambda a, f=getattr(torch, name): a * f(a, dim=-1, keepdim=True) for name in ("sum", "mean",
        "amax", "logsumexp", "nanmean", "prod", "std", "var")},
    "softmax": lambda a: a.softmax(-1),
    "var_mean": lambda a: a - torch.var_mean(a, -1, keepdim=True)[1],
    "std_mean": lambda a: torch.std_mean(a, 1, keepdim=True)[0],
    "var_all": lambda a: a * torch.var(a, True),
    "sum_dtype": lambda a: a * a.sum(dtype=torch.double),
    "aminmax": lambda a: a / torch.aminmax(a, dim=2, keepdim=True)[1],
    "count_nonzero": lambda a: a * torch.count_nonzero(a > 0, dim=-1)[..., None],
    "norm": lambda a: a / a.norm(dim=-1, keepdim=True),
    "max_values": lambda a: a - a.max(-1, keepdim=True).values,
    "max_indices": lambda a: a + a.max(-1, keepdim=True).indices,
    "median": lambda a: a - a.median(-1, keepdim=True).values,
    "mode": lambda a: a - a.mode(-1, keepdim=True).values,
    "kthvalue": lambda a: a - a.kthvalue(2, -1, keepdim=True).values,
    "argmax": lambda a: a + a.argmax(-1, keepdim=True),
    "argmax_time": lambda a: a + a.argmax(1, keepdim=True),
    "quantile": lambda a: a - a.quantile(0.3, -1, keepdim=True),
    "quantiles": lambda a: a.quantile(numbers([0.3, 0.6], dtype=a.dtype), 1),
    "sort": lambda a: a.sort(-1).values,
    "sort_time": lambda a: a.sort(1).values,
    "topk": lambda a: a.topk(2, -1).values,
    "topk_time": lambda a: a.topk(2, 1).values,
    "topk_indices": lambda a: a.topk(2, -1).indices.double(),
    "argsort": lambda a: a.argsort(-1).double(),
    "argsort_time": lambda a: a.argsort(1).double(),
    "msort": lambda a: a.transpose(0, 1).msort(),
    **{name: lambda a, f=getattr(torch, name): f(a, 1) for name in ("cumsum", "cumprod", "logcumsumexp")},
    "cumsum_units": lambda a: a.cumsum(-1),
    "cumsum_ones": lambda a: a + torch.ones_like(a).cumsum(-1),
    "cummax": lambda a: a.cummax(1).values,
    "diff": lambda a: a.diff(dim=1),
    "diff_units": lambda a: a.diff(dim=-1),
    "trapezoid": lambda a: a * torch.trapezoid(a, dim=-1)[..., None],
    "histc": lambda a: torch.histc(a, 4)[None],
    "unique": lambda a: torch.unique(a)[None],
    "rfft": lambda a: torch.fft.irfft(torch.fft.rfft(a, dim=1), n=TIME, dim=1),
    "fft_units": lambda a: torch.fft.fft(a).real,
    "fft2": lambda a: torch.fft.fft2(image(a)).real.flatten(2).mT,
    "fftn": lambda a: torch.fft.fftn(a, dim=(0, 1)).imag,
    "fftshift": lambda a: torch.fft.fftshift(a, dim=1),
    "stft": lambda a: (
        torch.stft(a.mT.flatten(0, 1), 4, window=torch.ones(4, dtype=a.dtype),
        return_complex=True).abs().unflatten(0, (2, UNITS)).flatten(2).mT),
    "mse": lambda a, b: a * F.mse_loss(a, b),
    "kl_div": lambda a, b: F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="none"),
    "bce": lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid(), reduction="none"),
    "cross_entropy": lambda a: a * F.cross_entropy(a.mT, AFTER.expand(2, -1)),
    "cross_entropy_shares": lambda a, b: each(F.cross_entropy(a.mT, b.softmax(-1).mT, reduction="none")),
    "masked_select": lambda a: torch.masked_select(a, numbers([True, False, True, True])).unflatten(0, (10, 3)),
    "nonzero": lambda a: a * torch.nonzero(a > 0).double().mean(),
    # entries by number
    "embedding": lambda a: F.embedding(AFTER, a[0]),
    "index": lambda a: a[:, numbers([0, 2])],
    "index_units": lambda a: a[..., numbers([0, 2])],
    "index_two": lambda a: a[numbers([0, 1]), numbers([3, 4])],
    "index_apart": lambda a: image(a)[numbers([0, 1, 1]), :, numbers([3, 4, 0])].mT,
    "index_mask": lambda a: a[numbers([[True, False, True, True, False]]).expand(2, -1)],
    "index_select": lambda a: a.index_select(1, WINDOW),
    "index_put": lambda a, b: a.index_put((numbers([0, 1]), numbers([2, 3])), b[:, 0]),
    "index_put_mask": lambda a: a.index_put((numbers([[True] * 3 + [False] * 2] * 2),), numbers(0.5, dtype=a.dtype)),
    "index_add": lambda a, b: a.index_add(1, WINDOW, b[:, :2]),
    "index_copy": lambda a, b: a.index_copy(1, WINDOW, b[:, :2]),
    "index_fill": lambda a: a.index_fill(1, WINDOW, 0.5),
    "index_fill_units": lambda a: a.index_fill(2, WINDOW, 0.5),
    "gather": lambda a: a.gather(1, along_time([0, 2, 2])),
    "gather_units": lambda a: a.gather(2, numbers([[[0, 2, 2]]]).expand(2, TIME, -1)),
    "gather_argmax": lambda a: a.gather(1, a.argmax(1, keepdim=True)),
    "scatter": lambda a, b: a.scatter(1, along_time([0, 2]), b[:, :2]),
    "scatter_add": lambda a: torch.zeros(2, 3, UNITS, dtype=a.dtype).scatter_add(1, along_time([0, 1, 1, 2, 0]), a),
    "scatter_value": lambda a: a.scatter(1, along_time([1]), 2.0),
    "scatter_reduce": lambda a: (
        torch.zeros(2, 3, UNITS, dtype=a.dtype).scatter_reduce(1, along_time([0, 1, 1, 2, 0]), a, "amax")),
    "take": lambda a: torch.take(a, AFTER),
    "take_along": lambda a: torch.take_along_dim(a, a.argsort(1), 1),
    "masked_scatter": lambda a, b: (
        a.masked_scatter(numbers([True, False, False, True, False])[None, :, None], b[:, :2])),
    "where_numbers": lambda a: a[:, torch.where(numbers([True, False, True, True, False]))[0]],
    # images
    "conv": lambda a: last(F.conv2d(image(a), buffer(3, UNITS, 2, 2))),
    "conv_groups": lambda a: last(F.conv2d(image(a), buffer(UNITS, 2, 2, 2), groups=2)),
    "conv_each": lambda a: last(F.conv2d(image(a), buffer(1, 1, 2, 2).expand(UNITS, -1, -1, -1), groups=UNITS)),
    "conv_transpose": lambda a: last(F.conv_transpose2d(image(a), buffer(UNITS, 3, 2, 2))),
    "conv_tbc": lambda a: torch.conv_tbc(a, buffer(2, UNITS, 3), buffer(3)),
    "avg_pool": lambda a: last(F.avg_pool2d(image(a), 2)),
    "max_pool": lambda a: last(F.max_pool2d(image(a), 2)),
    "max_unpool": lambda a: (
        last(F.max_unpool2d(*F.max_pool2d(image(a), 2, return_indices=True), 2, output_size=(5, 5)))),
    "adaptive": lambda a: last(F.adaptive_max_pool2d(image(a), 2, return_indices=True)[0]),
    "pool_of_units": lambda a: F.avg_pool1d(a, 2),
    "lrn": lambda a: last(F.local_response_norm(image(a), 3)),
    "nearest_exact": lambda a: last(F.interpolate(image(a), 7, mode="nearest-exact")),
    "antialias": lambda a: last(F.interpolate(image(a), 3, mode="bilinear", antialias=True)),
    "bicubic": lambda a: last(F.interpolate(image(a), 3, mode="bicubic", antialias=True)),
    "pixel_shuffle": lambda a: last(F.pixel_shuffle(image(a), 2)),
    "pixel_unshuffle": lambda a: last(F.pixel_unshuffle(image(a)[..., :4, :4], 2)),
    "channel_shuffle": lambda a: last(F.channel_shuffle(image(a), 2)),
    "im2col": lambda a: F.unfold(image(a), 2).mT,
    "col2im": lambda a: last(F.fold(F.unfold(image(a), 2), 5, 2)),
    "grid_sample": lambda a: last(F.grid_sample(image(a), buffer(2, 3, 3, 2), align_corners=False)),
    "affine_grid": lambda a: (
        last(F.grid_sample(image(a), F.affine_grid(buffer(2, 2, 3), (2, 4, 3, 3), align_corners=False),
        align_corners=False))),
    "reflection_pad": lambda a: last(F.pad(image(a), (1, 1, 1, 1), mode="reflect")),
    "replication_pad": lambda a: last(F.pad(image(a), (1, 1, 1, 1), mode="replicate")),
    # layers
    "batch_norm": lambda a: F.batch_norm(a.mT, torch.zeros(UNITS).double(), torch.ones(UNITS).double()).mT,
    "layer_norm": lambda a: F.layer_norm(a, (UNITS,)),
    "group_norm": lambda a: F.group_norm(a.mT, 2).mT,
    "instance_norm": lambda a: F.instance_norm(a.mT).mT,
    "rms_norm": lambda a: F.rms_norm(a, (UNITS,)),
    "renorm": lambda a: a.renorm(2, 0, 0.5),
    "native_layer_norm": lambda a: torch.native_layer_norm(a, (UNITS,), None, None, 1e-5)[0],
    "normalize": lambda a: F.normalize(a, dim=-1),
}

# Where a rule fixes more than it must, and why. Most are chances of small numbers: windows of two, numbers that pick the ends.
STRICTER = {
    "roll": "all units move together by one place, which no group says",
    "heaviside": "the second tensor counts only where the first is 0",
    "nextafter": "the second tensor counts for less than the tolerance",
    "diagonal_off": "a diagonal may be read backwards", "trapezoid": "the two ends, and what is between, may change places",
    "unfold_overlap": "windows may be read backwards", "lrn": "windows of channels may be read backwards",
    "fft_units": "the real part is the same backwards", "pool_of_units": "windows that do not overlap are blocks",
    "shared_heads": "queries that share a key keep their order",
    "chunk": "the halves of an axis, once cut, have roles of their own",
    "pdist_of_units": "an order of units is an order of their pairs", "masked_select": "entries that are not picked, and whole columns",
    "index_fill_units": "entries that are filled, or not, are alike",
    "gather_units": "entries that are not picked are alike", "take": "entries that are not picked are alike",
}

# What a rule cannot help: `split` takes an axis whose entries are all one unit for an axis of a constant.
def count_of_inputs(function):
    "How many tensors a call takes: functions written in C do not say it."
    if function in [getattr(torch, name) for name in BINARY]:
        return 2
    if inspect.isbuiltin(function):
        return 1
    parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    return len([one for one in parameters if one.default is one.empty])


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.function = function
        self.inputs = count_of_inputs(function)
        self.layers = nn.ModuleList(nn.Linear(FEATURES, UNITS) for _ in range(self.inputs)).double()
        for tensor in self.parameters():
            tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.double)
        width = self.middle(EXAMPLE).shape[-1]
        self.out = nn.Linear(width, 2).double()
        for tensor in self.out.parameters():
            tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.double)

    def middle(self, x, orders=None):
        hidden = [layer(x) for layer in self.layers]
        if orders:
            hidden = [own[..., list(order)] for own, order in zip(hidden, orders)]
        result = self.function(*hidden)
        return result.to(torch.double)

    def forward(self, x):
        return self.out(self.middle(x))


EXAMPLE = torch.randn(2, TIME, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def same_up_to_order(result, other):
    "Are the last axes of two results the same, one of them in another order?"
    first, second = (own.detach().reshape(-1, own.shape[-1]).nan_to_num(7.0, 8.0, 9.0) for own in (result, other))
    differ = (first[:, :, None] - second[:, None]).abs().amax(0) > TOLERANCE
    rows, columns = linear_sum_assignment(differ.double().numpy())
    return not differ[rows, columns].any()


def orders_that_move(net):
    "All orders of the units that the network can make up for: one for each of its layers."
    result = net.middle(EXAMPLE)
    still = tuple(range(UNITS))
    tried = [(order,) * net.inputs for order in permutations(still)]
    if net.inputs == 2:
        tried += [pair for order in permutations(still) for pair in ((order, still), (still, order))]
    return {orders for orders in tried if same_up_to_order(result, net.middle(EXAMPLE, orders))}


def orders_in(spec, net, generator):
    "A random order of the units of each layer, and the state that has it."
    order = spec.random(generator)
    state = permute(spec, order, net.state_dict())
    numbered = {name: torch.arange(UNITS, dtype=torch.double) if name.endswith("bias") and name.startswith("layers") else tensor
                for name, tensor in net.state_dict().items()}
    moved = permute(spec, order, numbered)
    return tuple(tuple(moved[f"layers.{i}.bias"].int().tolist()) for i in range(net.inputs)), state


def generated(orders):
    "The group that these orders generate."
    found, new = set(orders), set(orders)
    while new:
        new = {tuple(tuple(a[i] for i in b) for a, b in zip(one, other)) for one in new for other in orders} - found
        found |= new
    return found


@pytest.mark.parametrize("name", CALLS)
def test_what_a_rule_says_is_true_and_all_that_is_true(name):
    net = Net(CALLS[name]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = spec_from_trace(Trace(net, EXAMPLE))
    generator, orders = torch.Generator().manual_seed(2), set()
    with torch.no_grad():
        reference = net(EXAMPLE)
        for _ in range(20):
            own, state = orders_in(spec, net, generator)
            orders.add(own)
            change = (torch.func.functional_call(net, state, EXAMPLE) - reference).nan_to_num(0, 0, 0).abs().max()
            assert change <= TOLERANCE * reference.nan_to_num(0, 0, 0).abs().max().clamp(min=1), f"{own} moves the outputs by {change}: {spec}"
        missing = orders_that_move(net) - generated(orders)
    assert bool(missing) == (name in STRICTER), f"{sorted(missing)[:4]} leave the outputs as they are: {spec.pinned}"


def linears(**sizes):
    return {name: nn.Linear(*size) for name, size in sizes.items()}


class Built(nn.Module):
    "Layers by name, and a function of them and the input."
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def one_unit(net, x):
    hidden = net.a(x)
    return net.o(hidden) * hidden[:, 0, 3].exp()[:, None, None]


def loop(net, x):
    state = None
    for step in x.unbind(1):
        state = net.cell(step, state)
    return net.o(state[0] if isinstance(state, tuple) else state)


def from_zeros(net, x):
    "A convolutional LSTM: its state starts with zeros, beside the input."
    hidden = torch.zeros(2, 4, TIME, dtype=x.dtype)
    cell = torch.zeros_like(hidden)
    for step in x[:, None].expand(-1, 3, -1, -1).unbind(1):
        i, f, o, g = net.c(torch.cat([step.mT, hidden], 1)).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    return net.o(hidden.mT)


def packed(net, x):
    steps = nn.utils.rnn.pack_padded_sequence(net.a(x), numbers([5, 3]), batch_first=True)
    steps, _ = nn.utils.rnn.pad_packed_sequence(net.r(steps)[0], batch_first=True)
    return net.o(steps.mean(1))


def shared_keys(net, x):
    x = net.i(x)
    query, key, value = (own(x).unflatten(-1, (-1, 3)).transpose(1, 2) for own in (net.q, net.k, net.v))
    return net.o(F.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2).flatten(2))


def experts(net, x):
    hidden = net.i(x).relu()
    share = net.r(hidden).softmax(-1)
    hidden = torch.einsum("btd,edf->btef", hidden, net.first.weight.view(4, 6, 5)).relu()
    return net.o(torch.einsum("btef,bte->btf", hidden, share))


def selective(net, x):
    "Selective kernels: two branches in a stack, and a share for each."
    both = torch.stack([net.a(x).relu(), net.b(x).relu()], 1)
    share = net.g(net.f(both.sum(1).mean(1)).relu()).view(-1, 2, 6).softmax(1)
    return net.o((both * share[:, :, None]).sum(1))


def regions(net, x):
    boxes = numbers([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]], dtype=x.dtype)
    return net.o(torch.ops.torchvision.roi_align(image(net.a(x)), boxes, 0.5, 2, 2, 2, False).flatten(1))


def deformed(net, x):
    plane = image(net.a(x)).relu()
    return net.o(last(net.d(plane, net.f(plane)).relu()))


NETWORKS = {  # and the sizes of their groups
    "one unit": (Built(one_unit, **linears(a=(3, 6), o=(6, 2))), [5]),
    **{cell.__name__: (Built(loop, cell=cell(3, 5), o=nn.Linear(5, 2)), [5]) for cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)},
    "zeros beside": (Built(from_zeros, c=nn.Conv1d(3 + 4, 16, 3, padding=1), o=nn.Linear(4, 1)), [4]),
    **{f"packed {kind.__name__}": (Built(packed, a=nn.Linear(3, 4), r=kind(4, 5, batch_first=True, bidirectional=True), o=nn.Linear(10, 2)),
                                   [4, 5, 5]) for kind in (nn.LSTM, nn.GRU, nn.RNN)},
    "shared keys": (Built(shared_keys, **linears(i=(3, 7), q=(7, 12), k=(7, 6), v=(7, 6), o=(12, 2))), [2, 6, 6, 7]),
    "experts": (Built(experts, **linears(i=(3, 6), r=(6, 4), first=(5, 24), o=(5, 2))), [4, 5, 6]),
    "selective kernels": (Built(selective, **linears(a=(3, 6), b=(3, 6), f=(6, 4), g=(4, 12), o=(6, 2))), [4, 6]),
}


def add_networks_of_torchvision():
    from torchvision.ops import DeformConv2d
    NETWORKS["regions"] = Built(regions, **linears(a=(3, 4), o=(16, 2))), [4]
    NETWORKS["deformed"] = Built(deformed, a=nn.Linear(3, 4), f=nn.Conv2d(4, 18, 3), d=DeformConv2d(4, 5, 3), o=nn.Linear(5, 2)), [4, 5]


if find_spec("torchvision"):
    add_networks_of_torchvision()


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_of_networks(name):
    net, sizes = NETWORKS[name]
    net = net.double().eval()
    spec = spec_from_trace(Trace(net, EXAMPLE))
    assert sorted(spec.groups.values()) == sizes, f"{spec} {spec.pinned}"
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        reference = net(EXAMPLE)
        for _ in range(5):
            state = permute(spec, spec.random(generator), net.state_dict())
            moved = torch.func.functional_call(net, state, EXAMPLE)
            assert (moved - reference).abs().max() <= TOLERANCE * reference.abs().max()


def test_there_are_enough_calls():
    assert len(CALLS) >= 150
