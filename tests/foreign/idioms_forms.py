"""Forms that networks take: inputs and outputs of many kinds, choices, contexts, weights made of
weights, experts, heads that are distributions, coordinates, control."""

import collections
import dataclasses
import math
import typing

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from . import Net, images, register, sequences, tokens, vectors, weight

BUILDERS = {}
idiom = register(BUILDERS)


def mlp(*widths, activation=nn.ReLU):
    "Linear maps with an activation between them."
    layers = [
        part
        for i, o in zip(widths, widths[1:], strict=False)
        for part in (nn.Linear(i, o), activation())
    ]
    return nn.Sequential(*layers[:-1])


def plain(function, hidden=12, **parts):
    "A network with a function between two linear maps."

    def forward(m, x):
        return m.o(function(m, m.i(x)))

    return Net(
        forward, **({"i": nn.Linear(6, hidden), "o": nn.Linear(hidden, 3)} | parts)
    ), *vectors()


# inputs and outputs


@idiom
def dictionary_input():
    def forward(m, batch):
        return m.o(m.a(batch["x"]).relu() + m.b(batch["y"]).relu())

    examples = [({"x": x, "y": torch.randn(len(x), 4)},) for x in vectors()]
    return Net(forward, a=nn.Linear(6, 12), b=nn.Linear(4, 12), o=nn.Linear(12, 3)), *examples


@idiom
def dictionary_output():
    def forward(m, x):
        h = m.i(x).relu()
        return {"logits": m.o(h), "value": m.v(h).squeeze(-1)}

    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 3), v=nn.Linear(12, 1)), *vectors()


@dataclasses.dataclass
class Result:
    "What a network returns."

    logits: torch.Tensor
    hidden: torch.Tensor = None


@idiom
def dataclass_output():
    def forward(m, x):
        h = m.i(x).relu()
        return Result(m.o(h))

    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 3)), *vectors()


@idiom
def dataclass_with_hidden():
    def forward(m, x):
        h = m.i(x).relu()
        return Result(m.o(h), h)

    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 3)), *vectors()


Pair = collections.namedtuple("Pair", "logits value")


@idiom
def named_tuple_output():
    def forward(m, x):
        h = m.i(x).tanh()
        return Pair(m.o(h), m.v(h))

    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 3), v=nn.Linear(12, 1)), *vectors()


@idiom
def hidden_states_output():
    def forward(m, x):
        states = []
        for part in m.parts:
            states.append(x := part(x).relu())
        return m.o(x), tuple(states)

    return Net(
        forward, parts=nn.ModuleList([nn.Linear(6, 12), nn.Linear(12, 10)]), o=nn.Linear(10, 3)
    ), *vectors()


@idiom
def list_of_inputs():
    def forward(m, xs):
        return m.o(torch.cat([part(x) for part, x in zip(m.parts, xs, strict=True)], 1).relu())

    examples = [([torch.randn(n, 4), torch.randn(n, 5)],) for n in (3, 4)]
    return Net(
        forward, parts=nn.ModuleList([nn.Linear(4, 6), nn.Linear(5, 7)]), o=nn.Linear(13, 3)
    ), *examples


@dataclasses.dataclass
class Batch:
    "What a network takes."

    x: torch.Tensor
    mask: torch.Tensor


@idiom
def dataclass_input():
    def forward(m, batch):
        return m.o(m.i(batch.x).relu() * batch.mask.unsqueeze(-1))

    examples = [(Batch(x, torch.rand(len(x))),) for x in vectors()]
    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 3)), *examples


@idiom
def optional_argument():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.c, self.o = nn.Linear(6, 12), nn.Linear(4, 12), nn.Linear(12, 3)

        def forward(self, x, context: typing.Optional[torch.Tensor] = None):
            h = self.i(x)
            if context is not None:
                h = h + self.c(context)
            return self.o(h.relu())

    x, y = vectors()
    return Model(), [(x,), (x, torch.randn(4, 4))], (y, torch.randn(5, 4))


@idiom
def float_category_column():
    def forward(m, x):
        h = torch.cat([x[:, :5], m.kinds(x[:, 5].long())], 1)
        return m.o(m.i(h).relu())

    examples = [
        torch.cat([x[:, :5], torch.randint(0, 4, (len(x), 1)).float()], 1) for x in vectors()
    ]
    return Net(forward, kinds=nn.Embedding(4, 3), i=nn.Linear(8, 12), o=nn.Linear(12, 3)), *examples


@idiom
def tabular_categories_and_numbers():
    def forward(m, numbers, kinds):
        own = [table(kinds[:, k]) for k, table in enumerate(m.tables)]
        return m.net(torch.cat([m.n(numbers), *own], 1))

    examples = [(torch.randn(n, 5), torch.randint(0, 4, (n, 2))) for n in (4, 5)]
    net = nn.Sequential(
        nn.Linear(11, 12), nn.ReLU(), nn.BatchNorm1d(12), nn.Dropout(0.1), nn.Linear(12, 3)
    )
    return Net(
        forward,
        n=nn.BatchNorm1d(5),
        net=net,
        tables=nn.ModuleList(nn.Embedding(4, 3) for _ in range(2)),
    ), *examples


@idiom
def feature_tokens_transformer():
    def forward(m, x):
        h = x.unsqueeze(-1) * m.w + m.b
        h = torch.cat([m.first.expand(len(x), 1, -1), h], 1)
        return m.o(m.layer(h)[:, 0])

    return Net(
        forward,
        w=weight(6, 16),
        b=weight(6, 16),
        first=weight(1, 1, 16),
        o=nn.Linear(16, 3),
        layer=nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
    ), *vectors()


@idiom
def single_example_without_batch():
    return mlp(6, 12, 3), torch.randn(6), torch.randn(6)


@idiom
def image_normalised_inside():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.rand(1, 3, 1, 1))
            self.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
            self.net = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
            )

        def forward(self, x):
            return self.net((x / 255 - self.mean) / self.std)

    return Model(), *(100 * x for x in images(8))


@idiom
def bytes_as_images():
    def forward(m, x):
        return m.net(x.to(m.net[0].weight.dtype) / 255)

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    examples = [torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8) for n in (2, 3)]
    return Net(forward, net=net), *examples


# choices and contexts


@idiom
def choice_by_the_sum():
    def mix(m, h):
        if h.sum() > -1e9:
            return h.relu()
        return h.tanh()

    return plain(mix)


@idiom
def choice_by_a_check():
    def mix(m, h):
        if torch.isnan(h).any():
            raise ValueError("not a number")
        assert (h.abs() < 1e9).all()
        return h.relu()

    return plain(mix)


@idiom
def choice_by_torch_where():
    return plain(lambda m, h: torch.where(h > 0, h, m.a * h), a=weight(12))


@idiom
def early_exit():
    def forward(m, x):
        h = m.i(x).relu()
        first = m.e(h)
        if first.softmax(-1).amax(-1).min() > 0.999:
            return first
        return m.o(m.b(h).relu())

    return Net(
        forward, i=nn.Linear(6, 12), e=nn.Linear(12, 3), b=nn.Linear(12, 10), o=nn.Linear(10, 3)
    ), *vectors()


@idiom
def several_exits():
    def forward(m, x):
        outputs = []
        for part, head in zip(m.parts, m.heads, strict=True):
            x = part(x).relu()
            outputs.append(head(x))
        return outputs

    return Net(
        forward,
        parts=nn.ModuleList([nn.Linear(6, 12), nn.Linear(12, 10)]),
        heads=nn.ModuleList([nn.Linear(12, 3), nn.Linear(10, 3)]),
    ), *vectors()


@idiom
def autocast_disabled_inside():
    def mix(m, h):
        with torch.autocast("cpu", enabled=False):
            return m.b(h.relu()).tanh()

    return plain(mix, b=nn.Linear(12, 12))


@idiom
def autocast_bfloat16_inside():
    def mix(m, h):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = m.b(h.relu())
        return h.to(m.o.weight.dtype)

    return plain(mix, b=nn.Linear(12, 12))


@idiom
def checkpointed_block():
    return plain(lambda m, h: checkpoint(m.b, h, use_reentrant=False), b=mlp(12, 14, 12))


@idiom
def no_gradient_backbone():
    def forward(m, x):
        with torch.no_grad():
            h = m.b(x)
        return m.o(h.relu())

    return Net(forward, b=mlp(6, 14, 12), o=nn.Linear(12, 3)), *vectors()


@idiom
def gradients_enabled_inside():
    def mix(m, h):
        with torch.set_grad_enabled(True):
            h = m.b(h.relu())
        return h

    return plain(mix, b=nn.Linear(12, 12))


@idiom
def float32_norm_inside():
    def mix(m, h):
        own = h.to(torch.float32)
        own = own * torch.rsqrt(own.pow(2).mean(-1, keepdim=True) + 1e-6)
        return m.w * own.to(h.dtype)

    return plain(mix, w=weight(12))


@idiom
def gradient_reversal():
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.view_as(x)

        @staticmethod
        def backward(context, gradient):
            return -gradient

    return plain(lambda m, h: Reverse.apply(h.relu()))


@idiom
def straight_through_binary():
    def mix(m, h):
        soft = h.sigmoid()
        return (soft > 0.5).to(h.dtype) - soft.detach() + soft

    return plain(mix)


@idiom
def scripted_function():
    @torch.jit.script
    def gelu(x: torch.Tensor):
        return 0.5 * x * (1.0 + torch.tanh(0.79788456 * (x + 0.044715 * x * x * x)))

    return plain(lambda m, h: gelu(h))


@idiom
def vmap_over_examples():
    def forward(m, x):
        return torch.vmap(lambda row: m.o(m.i(row).relu()))(x)

    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 3)), *vectors()


@idiom
def hook_that_scales():
    model = mlp(6, 12, 3)
    model[1].register_forward_hook(lambda module, inputs, output: output * 2)
    return model, *vectors()


@idiom
def loop_until_convergence():
    def forward(m, x):
        h = torch.zeros(len(x), 12, dtype=x.dtype)
        for _ in range(5):
            h = torch.tanh(m.w(h) * 0.2 + m.i(x))
        return m.o(h)

    return Net(forward, w=nn.Linear(12, 12), i=nn.Linear(6, 12), o=nn.Linear(12, 3)), *vectors()


@idiom
def noise_in_forward():
    return plain(lambda m, h: h.relu() + 0.1 * torch.randn_like(h))


@idiom
def dropout_always_on():
    return plain(lambda m, h: F.dropout(h.relu(), 0.2, training=True))


# weights made of weights


@idiom
def tied_autoencoder():
    def forward(m, x):
        return F.linear(m.i(x).sigmoid(), m.i.weight.t(), m.b)

    return Net(forward, i=nn.Linear(6, 12), b=weight(6)), *vectors()


@idiom
def low_rank_adapter():
    def mix(m, h):
        return m.w(h) + m.b(m.a(h)) * 0.5

    return plain(
        mix, w=nn.Linear(12, 12), a=nn.Linear(12, 3, bias=False), b=nn.Linear(3, 12, bias=False)
    )


@idiom
def low_rank_weight_sum():
    def mix(m, h):
        return F.linear(h, m.w + 0.5 * (m.b @ m.a))

    return plain(mix, w=weight(12, 12), a=weight(3, 12), b=weight(12, 3))


@idiom
def bottleneck_adapter():
    return plain(
        lambda m, h: h + m.up(F.gelu(m.down(m.n(h)))),
        n=nn.LayerNorm(12),
        down=nn.Linear(12, 4),
        up=nn.Linear(4, 12),
    )


@idiom
def hypernetwork():
    def forward(m, x, z):
        h = m.h(z)
        w, b = h[:, :72].view(-1, 12, 6), h[:, 72:]
        y = torch.bmm(w, x.unsqueeze(2)).squeeze(2) + b
        return m.o(y.relu())

    examples = [(x, torch.randn(len(x), 4)) for x in vectors()]
    return Net(forward, h=mlp(4, 10, 84), o=nn.Linear(12, 3)), *examples


@idiom
def fast_weights():
    def forward(m, x):
        k, v, q = m.k(x), m.v(x), m.q(x)
        memory = torch.einsum("bnk,bnv->bkv", k.softmax(-1), v)
        return m.o(torch.einsum("bnk,bkv->bnv", q.softmax(-1), memory))

    return Net(
        forward, k=nn.Linear(6, 10), v=nn.Linear(6, 12), q=nn.Linear(6, 10), o=nn.Linear(12, 3)
    ), *sequences()


@idiom
def equalised_learning_rate():
    class Equalised(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(o, i)), nn.Parameter(torch.zeros(o))

        def forward(self, x):
            return F.linear(x, self.weight * (2 / self.weight.shape[1]) ** 0.5, self.bias)

    return nn.Sequential(Equalised(6, 12), nn.LeakyReLU(0.2), Equalised(12, 3)), *vectors()


@idiom
def masked_weights():
    class Pruned(nn.Linear):
        def __init__(self, i, o):
            super().__init__(i, o)
            self.register_buffer("mask", (torch.rand(o, i) > 0.5).float())

        def forward(self, x):
            return F.linear(x, self.weight * self.mask, self.bias)

    return nn.Sequential(Pruned(6, 12), nn.ReLU(), Pruned(12, 3)), *vectors()


@idiom
def fake_quantised_weights():
    class Quantised(nn.Linear):
        def forward(self, x):
            scale = self.weight.abs().amax(1, keepdim=True) / 7
            own = (self.weight / scale).round().clamp(-7, 7) * scale
            return F.linear(x, self.weight + (own - self.weight).detach(), self.bias)

    return nn.Sequential(Quantised(6, 12), nn.ReLU(), Quantised(12, 3)), *vectors()


@idiom
def binary_weights():
    class Binary(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.sign() * self.weight.abs().mean(), self.bias)

    return nn.Sequential(Binary(6, 12), nn.Hardtanh(), Binary(12, 3)), *vectors()


class Symmetric(nn.Module):
    "A symmetric matrix from any."

    def forward(self, w):
        return w.triu() + w.triu(1).transpose(-1, -2)


@idiom
def symmetric_parametrisation():
    linear = nn.Linear(12, 12)
    parametrize.register_parametrization(linear, "weight", Symmetric())
    return plain(lambda m, h: m.w(h.relu()), w=linear)


@idiom
def orthogonal_parametrisation():
    linear = nn.utils.parametrizations.orthogonal(nn.Linear(12, 12))
    return plain(lambda m, h: m.w(h.relu()), w=linear)


@idiom
def bayesian_linear_mean():
    class Bayesian(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.mu, self.rho = weight(o, i), nn.Parameter(torch.full((o, i), -3.0))

        def forward(self, x):
            if not self.training:
                return F.linear(x, self.mu)
            return F.linear(x, self.mu + F.softplus(self.rho) * torch.randn_like(self.mu))

    return nn.Sequential(Bayesian(6, 12), nn.ReLU(), Bayesian(12, 3)), *vectors()


@idiom
def bayesian_linear_sampled():
    class Bayesian(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.mu, self.rho = weight(o, i), nn.Parameter(torch.full((o, i), -3.0))

        def forward(self, x):
            return F.linear(x, self.mu + F.softplus(self.rho) * torch.randn_like(self.mu))

    return nn.Sequential(Bayesian(6, 12), nn.ReLU(), Bayesian(12, 3)), *vectors()


@idiom
def batch_ensemble():
    def forward(m, x):
        h = ((x.unsqueeze(0) * m.r.unsqueeze(1)) @ m.w.T * m.s.unsqueeze(1)).relu()
        return m.o(h).mean(0)

    return Net(
        forward, r=weight(3, 6), w=weight(12, 6), s=weight(3, 12), o=nn.Linear(12, 3)
    ), *vectors()


@idiom
def stacked_ensemble():
    def forward(m, x):
        h = torch.einsum("bi,koi->kbo", x, m.a).add(m.b[:, None]).relu()
        return torch.baddbmm(m.d[:, None], h, m.c).mean(0)

    return Net(
        forward, a=weight(3, 12, 6), b=weight(3, 12), c=weight(3, 12, 4), d=weight(3, 4)
    ), *vectors()


@idiom
def moving_average_teacher():
    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = mlp(6, 12, 3), mlp(6, 12, 3)
            for own in self.teacher.parameters():
                own.requires_grad = False

        def forward(self, x):
            with torch.no_grad():
                target = self.teacher(x)
            return self.student(x), target

    return Teacher(), *vectors()


# experts


def experts(function, **parts):
    "A network with four experts."

    def forward(m, x):
        return m.o(function(m, m.i(x).relu()))

    own = nn.ModuleList(mlp(12, 14, 12) for _ in range(4))
    return Net(
        forward,
        **({"i": nn.Linear(6, 12), "r": nn.Linear(12, 4), "e": own, "o": nn.Linear(12, 3)} | parts),
    ), *vectors()


@idiom
def experts_soft():
    def mix(m, h):
        share = m.r(h).softmax(-1)
        return (torch.stack([e(h) for e in m.e], 1) * share.unsqueeze(-1)).sum(1)

    return experts(mix)


@idiom
def experts_top_two_dense():
    def mix(m, h):
        top, index = m.r(h).softmax(-1).topk(2, -1)
        share = torch.zeros(len(h), 4, dtype=h.dtype).scatter(
            1, index, top / top.sum(-1, keepdim=True)
        )
        return sum(share[:, k : k + 1] * e(h) for k, e in enumerate(m.e))

    return experts(mix)


@idiom
def experts_top_two_masked():
    def mix(m, h):
        top, index = m.r(h).topk(2, -1)
        top = top.softmax(-1)
        out = torch.zeros_like(h)
        for k, e in enumerate(m.e):
            out = out + e(h) * (top * (index == k)).sum(-1, keepdim=True)
        return out

    return experts(mix)


@idiom
def experts_where_selected():
    def mix(m, h):
        top, index = m.r(h).softmax(-1).max(-1)
        out = torch.zeros_like(h)
        for k, e in enumerate(m.e):
            rows = torch.where(index == k)[0]
            out[rows] = e(h[rows]) * top[rows].unsqueeze(-1)
        return out

    return experts(mix)


@idiom
def experts_stacked_weights():
    def mix(m, h):
        top, index = m.r(h).softmax(-1).topk(2, -1)
        y = torch.einsum("bi,bkio->bko", h, m.a[index]).relu()
        return (torch.einsum("bko,bkoi->bki", y, m.b[index]) * top.unsqueeze(-1)).sum(1)

    return experts(mix, a=weight(4, 12, 14), b=weight(4, 14, 12), e=None)


@idiom
def experts_multi_gate():
    def forward(m, x):
        h = torch.stack([e(x).relu() for e in m.e], 1)
        own = [(g(x).softmax(-1).unsqueeze(-1) * h).sum(1) for g in m.g]
        return [t(y) for t, y in zip(m.t, own, strict=True)]

    return Net(
        forward,
        e=nn.ModuleList(nn.Linear(6, 12) for _ in range(3)),
        g=nn.ModuleList(nn.Linear(6, 3) for _ in range(2)),
        t=nn.ModuleList(mlp(12, 8, 1) for _ in range(2)),
    ), *vectors()


# heads that are distributions


@idiom
def mixture_density():
    def forward(m, x):
        h = m.i(x).tanh()
        return m.p(h).softmax(-1), m.mu(h).view(-1, 4, 2), m.s(h).view(-1, 4, 2).exp()

    return Net(
        forward, i=nn.Linear(6, 12), p=nn.Linear(12, 4), mu=nn.Linear(12, 8), s=nn.Linear(12, 8)
    ), *vectors()


@idiom
def mixture_density_likelihood():
    def forward(m, x, y):
        h = m.i(x).tanh()
        weights, mean, scale = F.log_softmax(m.p(h), -1), m.mu(h), m.s(h).exp()
        log = -0.5 * ((y - mean) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(weights + log, -1)

    examples = [(x, torch.randn(len(x), 1)) for x in vectors()]
    return Net(
        forward, i=nn.Linear(6, 12), p=nn.Linear(12, 4), mu=nn.Linear(12, 4), s=nn.Linear(12, 4)
    ), *examples


@idiom
def normal_distribution_output():
    def forward(m, x):
        h = m.i(x).relu()
        return torch.distributions.Normal(m.mu(h), F.softplus(m.s(h)) + 1e-4)

    return Net(forward, i=nn.Linear(6, 12), mu=nn.Linear(12, 2), s=nn.Linear(12, 2)), *vectors()


@idiom
def normal_log_probability():
    def forward(m, x, y):
        h = m.i(x).relu()
        return torch.distributions.Normal(m.mu(h), F.softplus(m.s(h)) + 1e-4).log_prob(y).sum(-1)

    examples = [(x, torch.randn(len(x), 2)) for x in vectors()]
    return Net(forward, i=nn.Linear(6, 12), mu=nn.Linear(12, 2), s=nn.Linear(12, 2)), *examples


@idiom
def categorical_policy_and_value():
    def forward(m, x):
        h = m.i(x).tanh()
        policy = torch.distributions.Categorical(logits=m.p(h))
        return policy.probs, policy.entropy(), m.v(h).squeeze(-1)

    return Net(forward, i=nn.Linear(6, 12), p=nn.Linear(12, 4), v=nn.Linear(12, 1)), *vectors()


@idiom
def multivariate_normal_cholesky():
    def forward(m, x, y):
        h = m.i(x).relu()
        lower = m.l(h).view(-1, 2, 2).tril(-1) + torch.diag_embed(F.softplus(m.d(h)) + 0.1)
        return torch.distributions.MultivariateNormal(m.mu(h), scale_tril=lower).log_prob(y)

    examples = [(x, torch.randn(len(x), 2)) for x in vectors()]
    return Net(
        forward, i=nn.Linear(6, 12), mu=nn.Linear(12, 2), l=nn.Linear(12, 4), d=nn.Linear(12, 2)
    ), *examples


@idiom
def student_and_poisson_heads():
    def forward(m, x):
        h = m.i(x).relu()
        return torch.distributions.StudentT(F.softplus(m.d(h)) + 2, m.mu(h)).mean, m.r(h).exp()

    return Net(
        forward, i=nn.Linear(6, 12), d=nn.Linear(12, 1), mu=nn.Linear(12, 1), r=nn.Linear(12, 1)
    ), *vectors()


@idiom
def evidential_heads():
    def forward(m, x):
        gamma, v, alpha, beta = m.o(m.i(x).relu()).chunk(4, -1)
        return gamma, F.softplus(v), F.softplus(alpha) + 1, F.softplus(beta)

    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(12, 4)), *vectors()


@idiom
def dueling_values():
    def forward(m, x):
        h = m.i(x).relu()
        a = m.a(h)
        return m.v(h) + a - a.mean(1, keepdim=True)

    return Net(forward, i=mlp(6, 14, 12), a=mlp(12, 10, 4), v=mlp(12, 8, 1)), *vectors()


@idiom
def distributional_values():
    class Values(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("support", torch.linspace(-1, 1, 5))
            self.net = mlp(6, 12, 20)

        def forward(self, x):
            return (self.net(x).view(-1, 4, 5).softmax(-1) * self.support).sum(-1)

    return Values(), *vectors()


@idiom
def squashed_actor():
    def forward(m, x):
        mean, log = m.net(x).chunk(2, -1)
        log = torch.clamp(log, -5, 2)
        return mean.tanh(), log

    return Net(forward, net=mlp(6, 12, 10, 4)), *vectors()


@idiom
def implicit_quantiles():
    def forward(m, x, tau):
        h = m.i(x).relu()
        waves = torch.cos(math.pi * torch.arange(1, 9, dtype=x.dtype) * tau.unsqueeze(-1))
        return m.o(h.unsqueeze(1) * m.q(waves).relu())

    examples = [(x, torch.rand(len(x), 3)) for x in vectors()]
    return Net(forward, i=nn.Linear(6, 12), q=nn.Linear(8, 12), o=nn.Linear(12, 4)), *examples


# coordinates


@idiom
def radiance_field():
    def forward(m, x, d):
        def waves(y):
            return torch.cat(
                [y, *(f(2.0**k * y) for k in range(3) for f in (torch.sin, torch.cos))], -1
            )

        x, d = waves(x), waves(d)
        h = m.a(x)
        h = m.b(torch.cat([x, h.relu()], -1)).relu()
        density = m.density(h).relu()
        colour = m.colour(torch.cat([m.f(h), d], -1)).sigmoid()
        return torch.cat([colour, density], -1)

    examples = [(torch.randn(n, 3), torch.randn(n, 3)) for n in (5, 7)]
    return Net(
        forward,
        a=mlp(21, 14, 12),
        b=nn.Linear(33, 12),
        density=nn.Linear(12, 1),
        f=nn.Linear(12, 10),
        colour=mlp(31, 8, 3),
    ), *examples


@idiom
def sine_network():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(3 * x)

    return mlp(2, 12, 10, 1, activation=Sine), *vectors(2)


@idiom
def random_fourier_features():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", torch.randn(2, 8))
            self.net = mlp(16, 12, 3)

        def forward(self, x):
            phase = 2 * math.pi * x @ self.b
            return self.net(torch.cat([phase.sin(), phase.cos()], -1))

    return Features(), *vectors(2)


@idiom
def signed_distance_skip():
    def forward(m, x):
        return m.c(torch.cat([m.b(F.softplus(m.a(x), 100)), x], -1).relu()).tanh()

    return Net(forward, a=nn.Linear(3, 12), b=nn.Linear(12, 9), c=nn.Linear(12, 1)), *vectors(3)


@idiom
def hashed_grid_encoding():
    def forward(m, x):
        low = (x.sigmoid() * 7).floor().long()
        own = [
            table[(low[:, 0] * 31 + low[:, 1] * 17 + k) % 16] for k, table in enumerate(m.tables)
        ]
        return m.net(torch.cat(own, -1))

    return Net(
        forward, tables=nn.ParameterList(weight(16, 2) for _ in range(3)), net=mlp(6, 12, 3)
    ), *vectors(2)


@idiom
def tri_plane_features():
    def forward(m, x):
        places = torch.stack([x[:, [0, 1]], x[:, [0, 2]], x[:, [1, 2]]]).tanh().unsqueeze(1)
        h = F.grid_sample(m.planes, places, align_corners=True).sum(0).squeeze(1).T
        return m.net(h)

    return Net(forward, planes=weight(3, 10, 6, 6), net=mlp(10, 12, 4)), *vectors(3)


@idiom
def spline_kan():
    def forward(m, x):
        for w, c in zip(m.w, m.c, strict=True):
            basis = torch.exp(-(x.unsqueeze(-1) - torch.linspace(-2, 2, 5, dtype=x.dtype)).square())
            x = F.linear(F.silu(x), w) + torch.einsum("big,oig->bo", basis, c)
        return x

    return Net(
        forward,
        w=nn.ParameterList([weight(12, 6), weight(3, 12)]),
        c=nn.ParameterList([weight(12, 6, 5), weight(3, 12, 5)]),
    ), *vectors()


@idiom
def neural_ode_euler():
    def forward(m, x):
        h = m.i(x)
        for k in range(4):
            h = h + 0.25 * m.f(torch.cat([h, torch.full_like(h[:, :1], k / 4)], 1))
        return m.o(h)

    return Net(
        forward, i=nn.Linear(6, 10), f=mlp(11, 12, 10, activation=nn.Tanh), o=nn.Linear(10, 3)
    ), *vectors()


@idiom
def neural_ode_runge_kutta():
    def forward(m, x):
        h, step = m.i(x), 0.5
        for _ in range(2):
            a = m.f(h)
            b = m.f(h + step / 2 * a)
            c = m.f(h + step / 2 * b)
            h = h + step / 6 * (a + 2 * b + 2 * c + m.f(h + step * c))
        return m.o(h)

    return Net(
        forward, i=nn.Linear(6, 10), f=mlp(10, 12, 10, activation=nn.Tanh), o=nn.Linear(10, 3)
    ), *vectors()


@idiom
def deep_operator_network():
    def forward(m, u, y):
        return torch.einsum("bp,np->bn", m.branch(u), m.trunk(y)) + m.b

    examples = [(torch.randn(n, 8), torch.rand(5, 2)) for n in (3, 4)]
    return Net(forward, branch=mlp(8, 12, 10), trunk=mlp(2, 14, 10), b=weight(1)), *examples


@idiom
def energy_gradient_force():
    def forward(m, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = m.net(x).sum()
            return torch.autograd.grad(energy, x)[0]

    return Net(forward, net=mlp(3, 12, 1, activation=nn.Tanh)), *vectors(3)


# gates, norms and activations


@idiom
def gated_units_glu():
    return plain(lambda m, h: F.glu(m.g(h)), g=nn.Linear(12, 24))


@idiom
def gated_units_swiglu():
    return plain(
        lambda m, h: m.d(F.silu(m.g(h)) * m.u(h)),
        g=nn.Linear(12, 20),
        u=nn.Linear(12, 20),
        d=nn.Linear(20, 12),
    )


@idiom
def gated_units_geglu_chunk():
    def mix(m, h):
        a, b = m.g(h).chunk(2, -1)
        return m.d(a * F.gelu(b))

    return plain(mix, g=nn.Linear(12, 40), d=nn.Linear(20, 12))


@idiom
def gated_units_interleaved():
    def mix(m, h):
        y = m.g(h)
        return m.d(F.silu(y[..., ::2]) * y[..., 1::2])

    return plain(mix, g=nn.Linear(12, 40), d=nn.Linear(20, 12))


@idiom
def squared_relu():
    return plain(lambda m, h: m.d(m.u(h).relu().square()), u=nn.Linear(12, 20), d=nn.Linear(20, 12))


@idiom
def handwritten_rms_norm():
    return plain(
        lambda m, h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * m.w, w=weight(12)
    )


@idiom
def handwritten_layer_norm():
    def mix(m, h):
        return m.w * (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-6) + m.b

    return plain(mix, w=weight(12), b=weight(12))


@idiom
def layer_norm_var_unbiased():
    def mix(m, h):
        mean, variance = h.mean(-1, True), h.var(-1, unbiased=False, keepdim=True)
        return (h - mean) / torch.sqrt(variance + 1e-5) * m.w

    return plain(mix, w=weight(12))


@idiom
def parametric_relu():
    return plain(lambda m, h: m.a(h), a=nn.PReLU(12))


@idiom
def one_slope_prelu():
    return plain(lambda m, h: m.a(h), a=nn.PReLU())


@idiom
def learned_swish():
    return plain(lambda m, h: h * (m.b * h).sigmoid(), b=weight(12))


@idiom
def snake_activation():
    return plain(
        lambda m, h: h + (m.a * h).sin().square() / (m.a + 1e-9),
        a=nn.Parameter(torch.rand(12) + 0.5),
    )


@idiom
def softmax_temperature_head():
    def forward(m, x):
        return (m.net(x) / m.t).softmax(-1)

    return Net(forward, net=mlp(6, 12, 3), t=nn.Parameter(torch.tensor(1.5))), *vectors()


@idiom
def highway():
    def mix(m, h):
        gate = m.t(h).sigmoid()
        return gate * m.h(h).relu() + (1 - gate) * h

    return plain(mix, t=nn.Linear(12, 12), h=nn.Linear(12, 12))


@idiom
def layer_scale_and_rezero():
    return plain(
        lambda m, h: h + m.a * m.f(h) + m.z * m.g(h),
        a=nn.Parameter(1e-4 * torch.ones(12)),
        z=nn.Parameter(torch.zeros(1)),
        f=mlp(12, 14, 12),
        g=mlp(12, 16, 12),
    )


@idiom
def weighted_layer_sum():
    def forward(m, x):
        states = [m.i(x)]
        for part in m.parts:
            states.append(part(states[-1]).relu())
        share = m.s.softmax(0)
        return m.o(sum(w * h for w, h in zip(share, states, strict=True)))

    return Net(
        forward,
        i=nn.Linear(6, 12),
        parts=nn.ModuleList(nn.Linear(12, 12) for _ in range(2)),
        s=nn.Parameter(torch.zeros(3)),
        o=nn.Linear(12, 3),
    ), *vectors()


@idiom
def weighted_layer_sum_stacked():
    def forward(m, x):
        states = [m.i(x)]
        for part in m.parts:
            states.append(part(states[-1]).relu())
        return m.o((torch.stack(states, 0) * m.s.softmax(0).view(-1, 1, 1)).sum(0))

    return Net(
        forward,
        i=nn.Linear(6, 12),
        parts=nn.ModuleList(nn.Linear(12, 12) for _ in range(2)),
        s=nn.Parameter(torch.zeros(3)),
        o=nn.Linear(12, 3),
    ), *vectors()


@idiom
def shared_layers_albert():
    def forward(m, x):
        h = m.i(x)
        for _ in range(3):
            h = h + m.f(h)
        return m.o(h)

    return Net(forward, i=nn.Linear(6, 12), f=mlp(12, 14, 12), o=nn.Linear(12, 3)), *vectors()


@idiom
def reversible_blocks():
    def forward(m, x):
        a, b = m.i(x).chunk(2, -1)
        for f, g in zip(m.f, m.g, strict=True):
            a = a + f(b)
            b = b + g(a)
        return m.o(torch.cat([a, b], -1))

    return Net(
        forward,
        i=nn.Linear(6, 16),
        f=nn.ModuleList(mlp(8, 10, 8) for _ in range(2)),
        g=nn.ModuleList(mlp(8, 12, 8) for _ in range(2)),
        o=nn.Linear(16, 3),
    ), *vectors()


@idiom
def monarch_block_diagonal():
    def mix(m, h):
        h = torch.einsum("bki,kio->bko", h.view(-1, 3, 4), m.a)
        return torch.einsum("bki,kio->bko", h.transpose(1, 2).reshape(-1, 4, 3), m.b).flatten(1)

    return plain(mix, a=weight(3, 4, 4), b=weight(4, 3, 3))


@idiom
def kronecker_layer():
    return plain(lambda m, h: F.linear(h, torch.kron(m.a, m.b)), a=weight(3, 3), b=weight(4, 4))


@idiom
def complex_linear():
    def mix(m, h):
        y = torch.view_as_complex(h.view(-1, 6, 2).contiguous()) @ m.w
        return torch.view_as_real(y).flatten(1)

    return plain(mix, w=nn.Parameter(torch.randn(6, 6, dtype=torch.cfloat)))


@idiom
def quaternion_linear():
    def mix(m, h):
        r, i, j, k = m.r, m.i1, m.j, m.k
        rows = [
            torch.cat(row, 1)
            for row in ((r, -i, -j, -k), (i, r, -k, j), (j, k, r, -i), (k, -j, i, r))
        ]
        return F.linear(h.relu(), torch.cat(rows, 0))

    return plain(mix, r=weight(3, 3), i1=weight(3, 3), j=weight(3, 3), k=weight(3, 3))


@idiom
def tensor_product_sum():
    def mix(m, h):
        return torch.einsum("bi,bj,ijk->bk", h, h.tanh(), m.w)

    return plain(mix, hidden=8, w=weight(8, 8, 8))


@idiom
def soft_decision_tree():
    def forward(m, x):
        p = m.g(x).sigmoid()
        share = torch.ones(len(x), 1, dtype=x.dtype)
        for level in range(3):
            own = p[:, 2**level - 1 : 2 ** (level + 1) - 1]
            share = torch.stack([share * own, share * (1 - own)], -1).flatten(1)
        return share @ m.leaves

    return Net(forward, g=nn.Linear(6, 7), leaves=weight(8, 3)), *vectors()


@idiom
def tab_net_ghost_norm_and_sparse_mask():
    def forward(m, x):
        prior, total = torch.ones_like(x), 0
        for k in range(2):
            mask = (m.a[k](total if k else m.s(x)) * prior).softmax(-1)
            prior = prior * (1.3 - mask)
            h = F.glu(m.n[k](m.f[k](mask * x)))
            total = total + h.relu()
        return m.o(total)

    return Net(
        forward,
        s=nn.Linear(6, 8),
        a=nn.ModuleList(nn.Linear(8, 6) for _ in range(2)),
        f=nn.ModuleList(nn.Linear(6, 16) for _ in range(2)),
        o=nn.Linear(8, 3),
        n=nn.ModuleList(nn.BatchNorm1d(16) for _ in range(2)),
    ), *vectors()


@idiom
def world_model_rssm_step():
    def forward(m, x, action):
        h, z, out = x.new_zeros(len(x), 10), x.new_zeros(len(x), 6), []
        for t in range(x.shape[1]):
            h = m.cell(m.i(torch.cat([z, action[:, t]], 1)).relu(), h)
            z = m.post(torch.cat([h, m.e(x[:, t])], 1)).unflatten(1, (2, 3)).softmax(-1).flatten(1)
            out.append(m.o(torch.cat([h, z], 1)))
        return torch.stack(out, 1)

    examples = [(x, torch.randn(*x.shape[:2], 2)) for x in sequences()]
    return Net(
        forward,
        i=nn.Linear(8, 9),
        cell=nn.GRUCell(9, 10),
        e=mlp(6, 7, 5),
        post=mlp(15, 11, 6),
        o=nn.Linear(16, 4),
    ), *examples


@idiom
def lazy_modules():
    net = nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    net(torch.randn(4, 6))
    return net, *vectors()


@idiom
def module_dictionary_of_tasks():
    def forward(m, x):
        h = m.i(x).relu()
        return {name: head(h) for name, head in m.heads.items()}

    heads = nn.ModuleDict({"kind": nn.Linear(12, 3), "size": mlp(12, 8, 1)})
    return Net(forward, i=nn.Linear(6, 12), heads=heads), *vectors()


@idiom
def split_by_slices_and_kept():
    def mix(m, h):
        return torch.cat([h[:, :4].relu(), h[:, 4:8].tanh(), h[:, 8:].sigmoid()], 1)

    return plain(mix)


@idiom
def mixup_of_two_views():
    def forward(m, x):
        a, b = m.e(torch.cat([x, x.flip(1)], 0)).chunk(2, 0)
        return m.p(a), m.p(b)

    return Net(forward, e=mlp(6, 12, 10), p=mlp(10, 14, 8)), *vectors()


@idiom
def multi_label_query_decoder():
    def forward(m, x):
        h = m.c(x).flatten(2).transpose(1, 2)
        q = m.q.weight.unsqueeze(0).expand(len(x), -1, -1)
        y = m.d(q, h)
        return (y * m.w).sum(-1) + m.b

    return Net(
        forward,
        c=nn.Conv2d(3, 16, 4, 4),
        q=nn.Embedding(5, 16),
        w=weight(5, 16),
        b=weight(5),
        d=nn.TransformerDecoderLayer(16, 4, 24, batch_first=True),
    ), *images(16)


@idiom
def language_model_loss_inside():
    def forward(m, x):
        logits = m.o(m.r(m.words(x))[0])
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()), logits

    return Net(
        forward, words=nn.Embedding(50, 8), r=nn.GRU(8, 12, batch_first=True), o=nn.Linear(12, 50)
    ), *tokens()
