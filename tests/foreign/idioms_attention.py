"""Attention and transformers as people write them by hand."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import Net, images, register, sequences, tokens, weight

BUILDERS = {}
idiom = register(BUILDERS)
WIDTH, HEADS, INNER = 16, 4, 24


def heads(x, count=HEADS):
    "(batch, length, width) as (batch, heads, length, inner)."
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x):
    "The inverse of `heads`."
    return x.transpose(1, 2).flatten(2)


def attend(q, k, v, bias=0):
    "Softmax attention by matrix products."
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + bias
    return scores.softmax(-1) @ v


def projections(width=WIDTH, kv=WIDTH):
    "The four maps of an attention layer, and the maps around it."
    return dict(
        i=nn.Linear(6, width),
        q=nn.Linear(width, width),
        k=nn.Linear(width, kv),
        v=nn.Linear(width, kv),
        p=nn.Linear(width, width),
        o=nn.Linear(width, 3),
    )


def layer(mix, **parts):
    "A network with one attention layer, a residual and a mean over positions."

    def forward(m, x):
        x = m.i(x)
        return m.o((x + m.p(mix(m, x))).relu().mean(1))

    return Net(forward, **(projections() | parts)), *sequences()


@idiom
def softmax_attention():
    return layer(lambda m, x: merged(attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))))


@idiom
def fused_qkv():
    def mix(m, x):
        q, k, v = m.qkv(x).chunk(3, -1)
        return merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v)))

    return layer(mix, qkv=nn.Linear(WIDTH, 3 * WIDTH), q=None, k=None, v=None)


@idiom
def fused_qkv_permuted():
    def mix(m, x):
        b, n, c = x.shape
        q, k, v = m.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return (attend(q, k, v)).transpose(1, 2).reshape(b, n, c)

    return layer(mix, qkv=nn.Linear(WIDTH, 3 * WIDTH), q=None, k=None, v=None)


@idiom
def fused_qkv_heads_first():
    def mix(m, x):
        q, k, v = m.qkv(x).unflatten(-1, (HEADS, 3, -1)).unbind(3)
        return merged(attend(*(part.transpose(1, 2) for part in (q, k, v))))

    return layer(mix, qkv=nn.Linear(WIDTH, 3 * WIDTH), q=None, k=None, v=None)


@idiom
def einsum_attention():
    def mix(m, x):
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)) for part in (m.q, m.k, m.v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)

    return layer(mix)


@idiom
def causal_mask_triu():
    def mix(m, x):
        n = x.shape[1]
        mask = torch.triu(torch.full((n, n), float("-inf"), dtype=x.dtype), diagonal=1)
        return merged(attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)), mask))

    return layer(mix)


@idiom
def causal_mask_buffer():
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.ones(12, 12).tril().view(1, 1, 12, 12))
            self.qkv, self.i, self.o = nn.Linear(16, 48), nn.Embedding(50, 16), nn.Linear(16, 50)

        def forward(self, x):
            n = x.shape[1]
            q, k, v = map(heads, self.qkv(self.i(x)).split(16, -1))
            scores = (q @ k.transpose(-2, -1)) * 0.5
            scores = scores.masked_fill(self.mask[:, :, :n, :n] == 0, float("-inf"))
            return self.o(merged(scores.softmax(-1) @ v))

    return Causal(), *tokens()


@idiom
def grouped_query_repeat():
    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x), 2), heads(m.v(x), 2)
        return merged(attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))

    return layer(mix, **projections(kv=8))


@idiom
def grouped_query_expand():
    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x), 2), heads(m.v(x), 2)
        k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for t in (k, v))
        return merged(attend(q, k, v))

    return layer(mix, **projections(kv=8))


@idiom
def grouped_query_enable_gqa():
    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x), 2), heads(m.v(x), 2)
        return merged(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))

    return layer(mix, **projections(kv=8))


@idiom
def multi_query():
    def mix(m, x):
        return merged(attend(heads(m.q(x)), m.k(x)[:, None], m.v(x)[:, None]))

    return layer(mix, **projections(kv=4))


def angles(n, inner, like):
    "Cosines and sines of a rotary embedding."
    rates = 1e4 ** (-torch.arange(0, inner, 2, dtype=like.dtype) / inner)
    phase = torch.outer(torch.arange(n, dtype=like.dtype), rates)
    return phase.cos(), phase.sin()


@idiom
def rotary_halves():
    def rotate(x):
        cos, sin = (torch.cat([t, t], -1) for t in angles(x.shape[2], x.shape[3], x))
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def mix(m, x):
        return merged(attend(rotate(heads(m.q(x))), rotate(heads(m.k(x))), heads(m.v(x))))

    return layer(mix)


@idiom
def rotary_interleaved():
    def rotate(x):
        cos, sin = angles(x.shape[2], x.shape[3], x)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def mix(m, x):
        return merged(attend(rotate(heads(m.q(x))), rotate(heads(m.k(x))), heads(m.v(x))))

    return layer(mix)


@idiom
def rotary_complex():
    def rotate(x):
        cos, sin = angles(x.shape[2], x.shape[3], x)
        turns = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(turns * torch.complex(cos, sin)).flatten(-2)

    def mix(m, x):
        return merged(attend(rotate(heads(m.q(x))), rotate(heads(m.k(x))), heads(m.v(x))))

    return layer(mix)


@idiom
def rotary_partial():
    def rotate(x):
        turned, rest = x[..., :2], x[..., 2:]
        cos, sin = (torch.cat([t, t], -1) for t in angles(x.shape[2], 2, x))
        a, b = turned.chunk(2, -1)
        return torch.cat([turned * cos + torch.cat([-b, a], -1) * sin, rest], -1)

    def mix(m, x):
        return merged(attend(rotate(heads(m.q(x))), rotate(heads(m.k(x))), heads(m.v(x))))

    return layer(mix)


@idiom
def alibi():
    def mix(m, x):
        steps = torch.arange(x.shape[1])
        slopes = 2.0 ** -torch.arange(1, HEADS + 1)
        bias = -(steps[:, None] - steps).abs() * slopes[:, None, None]
        return merged(attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)), bias.to(x)))

    return layer(mix)


@idiom
def t5_bias():
    def mix(m, x):
        steps = torch.arange(x.shape[1])
        bias = m.table((steps[:, None] - steps).clamp(-4, 4) + 4).permute(2, 0, 1)
        return merged(attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)), bias))

    return layer(mix, table=nn.Embedding(9, HEADS))


@idiom
def transformer_xl_relative():
    def mix(m, x):
        n = x.shape[1]
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        rates = 10.0 ** -torch.arange(8, dtype=x.dtype)
        phase = torch.outer(torch.arange(n - 1, -1, -1, dtype=x.dtype), rates)
        r = m.r(torch.cat([phase.sin(), phase.cos()], -1)).unflatten(-1, (HEADS, -1))
        content = (q + m.u[:, None]) @ k.transpose(-2, -1)
        place = torch.einsum("bhqd,khd->bhqk", q + m.w[:, None], r)
        place = F.pad(place, (1, 0)).view(*place.shape[:2], n + 1, n)[:, :, 1:]  # the shift
        return merged(((content + place) / 2).softmax(-1) @ v)

    return layer(mix, r=nn.Linear(16, WIDTH), u=weight(HEADS, 4), w=weight(HEADS, 4))


@idiom
def shaw_relative_keys():
    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        steps = torch.arange(x.shape[1])
        keys = m.table[(steps[:, None] - steps).clamp(-3, 3) + 3]
        return merged(
            (q @ k.transpose(-2, -1) + torch.einsum("bhqd,qkd->bhqk", q, keys)).softmax(-1) @ v
        )

    return layer(mix, table=weight(7, 4))


@idiom
def linear_attention():
    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        norm = (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True)
        return merged(q @ (k.transpose(-2, -1) @ v) / norm)

    return layer(mix)


@idiom
def causal_linear_attention():
    def mix(m, x):
        q, k, v = (F.elu(heads(m.q(x))) + 1, F.elu(heads(m.k(x))) + 1, heads(m.v(x)))
        outer = torch.einsum("bhnd,bhne->bhnde", k, v).cumsum(2)
        norm = (q * k.cumsum(2)).sum(-1, keepdim=True)
        return merged(torch.einsum("bhnd,bhnde->bhne", q, outer) / norm)

    return layer(mix)


@idiom
def linformer():
    def mix(m, x):
        short = torch.einsum("nk,bnc->bkc", m.e[: x.shape[1]], x)
        return merged(attend(heads(m.q(x)), heads(m.k(short)), heads(m.v(short))))

    return layer(mix, e=weight(12, 5))


@idiom
def external_attention():
    def mix(m, x):
        scores = m.memory(m.q(x)).softmax(1)
        return m.values(scores / (1e-9 + scores.sum(2, keepdim=True)))

    return layer(
        mix,
        memory=nn.Linear(WIDTH, 8, bias=False),
        values=nn.Linear(8, WIDTH, bias=False),
        k=None,
        v=None,
    )


@idiom
def additive_attention():
    def mix(m, x):
        scores = m.score(torch.tanh(m.q(x)[:, :, None] + m.k(x)[:, None])).squeeze(-1)
        return scores.softmax(-1) @ m.v(x)

    return layer(mix, score=nn.Linear(WIDTH, 1))


@idiom
def attention_pooling():
    def forward(m, x):
        h = m.i(x).tanh()
        return m.o((m.score(h).softmax(1) * h).sum(1))

    return Net(
        forward, i=nn.Linear(6, 16), score=nn.Linear(16, 1), o=nn.Linear(16, 3)
    ), *sequences()


@idiom
def query_pooling():
    def forward(m, x):
        h = m.i(x)
        pooled, _ = m.attention(m.query.expand(len(x), -1, -1), h, h)
        return m.o(pooled[:, 0])

    return Net(
        forward,
        i=nn.Linear(6, 16),
        query=weight(1, 1, 16),
        o=nn.Linear(16, 3),
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
    ), *sequences()


@idiom
def cosine_attention():
    def mix(m, x):
        q, k = F.normalize(heads(m.q(x)), dim=-1), F.normalize(heads(m.k(x)), dim=-1)
        scale = m.scale.clamp(max=math.log(100)).exp()
        return merged((scale * (q @ k.transpose(-2, -1))).softmax(-1) @ heads(m.v(x)))

    return layer(mix, scale=nn.Parameter(torch.full((HEADS, 1, 1), 1.0)))


@idiom
def query_key_norm():
    def mix(m, x):
        return merged(attend(m.a(heads(m.q(x))), m.b(heads(m.k(x))), heads(m.v(x))))

    return layer(mix, a=nn.LayerNorm(4), b=nn.LayerNorm(4))


@idiom
def talking_heads():
    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        scores = torch.einsum("bhqk,hg->bgqk", q @ k.transpose(-2, -1), m.before).softmax(-1)
        return merged(torch.einsum("bhqk,hg->bgqk", scores, m.after) @ v)

    return layer(mix, before=weight(4, 4), after=weight(4, 4))


@idiom
def channel_attention_xcit():
    def mix(m, x):
        q, k, v = (heads(part(x)).transpose(-2, -1) for part in (m.q, m.k, m.v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return merged(((q @ k.transpose(-2, -1)) * m.scale).softmax(-1).matmul(v).transpose(-2, -1))

    return layer(mix, scale=nn.Parameter(torch.ones(HEADS, 1, 1)))


@idiom
def memory_tokens():
    def forward(m, x):
        x = torch.cat([m.memory.expand(len(x), -1, -1), m.i(x)], 1)
        return m.o(m.layers(x)[:, 0])

    encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    return Net(
        forward,
        i=nn.Linear(6, 16),
        memory=weight(1, 3, 16),
        o=nn.Linear(16, 3),
        layers=nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False),
    ), *sequences()


@idiom
def sink_logit():
    def mix(m, x):
        scores = heads(m.q(x)) @ heads(m.k(x)).transpose(-2, -1)
        sink = m.sink.view(1, -1, 1, 1).expand(len(x), -1, x.shape[1], 1)
        return merged(torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ heads(m.v(x)))

    return layer(mix, sink=weight(HEADS))


@idiom
def sliding_window():
    def mix(m, x):
        steps = torch.arange(x.shape[1])
        near = (steps[:, None] - steps).abs() <= 2
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        return merged(F.scaled_dot_product_attention(q, k, v, attn_mask=near))

    return layer(mix)


@idiom
def swin_windows():
    def forward(m, x):
        x = m.i(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = torch.roll(x, (-2, -2), (1, 2))
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = m.qkv(x).reshape(-1, 16, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, m.bias).transpose(1, 2).reshape(-1, 16, c)
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return m.o(torch.roll(m.p(y), (2, 2), (1, 2)).mean((1, 2)))

    return Net(
        forward,
        i=nn.Conv2d(3, 16, 1),
        qkv=nn.Linear(16, 48),
        p=nn.Linear(16, 16),
        bias=weight(4, 16, 16),
        o=nn.Linear(16, 3),
    ), *images(8, other_size=12)


@idiom
def cross_attention():
    def forward(m, x, y):
        q, k, v = heads(m.q(m.i(x))), heads(m.k(m.j(y))), heads(m.v(m.j(y)))
        return m.o(merged(attend(q, k, v)).mean(1))

    parts = projections() | {"p": None, "j": nn.Linear(5, 16)}
    examples = [(torch.randn(n, 4 + n, 6), torch.randn(n, 3 + n, 5)) for n in (2, 3)]
    return Net(forward, **parts), *examples


@idiom
def perceiver_latents():
    def forward(m, x):
        latents = m.latents.expand(len(x), -1, -1)
        k, v = m.kv(m.i(x)).chunk(2, -1)
        latents = latents + merged(attend(heads(m.q(m.norm(latents))), heads(k), heads(v)))
        return m.o((latents + m.mlp(latents)).mean(1))

    mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
    return Net(
        forward,
        i=nn.Linear(6, 12),
        latents=weight(5, 16),
        norm=nn.LayerNorm(16),
        mlp=mlp,
        q=nn.Linear(16, 16),
        kv=nn.Linear(12, 32),
        o=nn.Linear(16, 3),
    ), *sequences()


@idiom
def slot_attention():
    def forward(m, x):
        keys = m.i(x)
        slots = m.slots.expand(len(x), -1, -1)
        for _ in range(2):
            weights = (m.q(slots) @ m.k(keys).transpose(1, 2)).softmax(1) + 1e-8
            updates = weights / weights.sum(-1, keepdim=True) @ m.v(keys)
            slots = m.cell(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return m.o(slots.mean(1))

    return Net(
        forward,
        i=nn.Linear(6, 12),
        slots=weight(4, 16),
        q=nn.Linear(16, 10),
        k=nn.Linear(12, 10),
        v=nn.Linear(12, 14),
        cell=nn.GRUCell(14, 16),
        o=nn.Linear(16, 3),
    ), *sequences()


@idiom
def induced_set_attention():
    def forward(m, x):
        x = m.i(x)
        h, _ = m.a(m.points.expand(len(x), -1, -1), x, x)
        return m.o(m.b(x, h, h)[0].sum(1))

    return Net(
        forward,
        i=nn.Linear(6, 16),
        points=weight(1, 4, 16),
        o=nn.Linear(16, 3),
        a=nn.MultiheadAttention(16, 4, batch_first=True),
        b=nn.MultiheadAttention(16, 2, batch_first=True),
    ), *sequences()


@idiom
def transformer_with_mask():
    def forward(m, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        h = m.t(
            m.words(source), m.words(target), tgt_mask=mask.to(m.words.weight), tgt_is_causal=True
        )
        return m.o(h)

    net = Net(
        forward,
        words=nn.Embedding(50, 16),
        o=nn.Linear(16, 50),
        t=nn.Transformer(16, 4, 1, 1, 24, batch_first=True),
    )
    pairs = zip(tokens(), tokens(length=5, other_length=6), strict=True)
    return net, *pairs


@idiom
def encoder_with_padding_mask():
    def forward(m, x):
        h = m.layers(m.words(x), src_key_padding_mask=x == 0)
        keep = (x != 0).unsqueeze(-1)
        return m.o((h * keep).sum(1) / keep.sum(1))

    encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
    net = Net(
        forward,
        words=nn.Embedding(50, 16, padding_idx=0),
        o=nn.Linear(16, 3),
        layers=nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False),
    )
    pair = tokens()
    for ids in pair:
        ids[0, -2:] = 0
    return net, *pair


@idiom
def prefix_tuning():
    def mix(m, x):
        k = torch.cat([m.pk.expand(len(x), -1, -1), m.k(x)], 1)
        v = torch.cat([m.pv.expand(len(x), -1, -1), m.v(x)], 1)
        return merged(attend(heads(m.q(x)), heads(k), heads(v)))

    return layer(mix, pk=weight(1, 3, WIDTH), pv=weight(1, 3, WIDTH))


@idiom
def learned_positions():
    def forward(m, x):
        h = m.words(x) + m.places(torch.arange(x.shape[1]))
        return m.o(m.layer(h)[:, -1])

    return Net(
        forward,
        words=nn.Embedding(50, 16),
        places=nn.Embedding(12, 16),
        layer=nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
        o=nn.Linear(16, 3),
    ), *tokens()


@idiom
def sinusoidal_positions():
    def forward(m, x):
        phase = torch.outer(
            torch.arange(x.shape[1], dtype=m.words.weight.dtype), 10.0 ** -torch.arange(8)
        )
        places = torch.stack([phase.sin(), phase.cos()], -1).flatten(1)
        return m.o(m.layer(m.words(x) * 4 + places).mean(1))

    return Net(
        forward,
        words=nn.Embedding(50, 16),
        o=nn.Linear(16, 3),
        layer=nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
    ), *tokens()


@idiom
def tied_decoder_gpt():
    def forward(m, x):
        h = m.words(x) + m.places.weight[: x.shape[1]]
        a = m.norm(h)
        q, k, v = m.qkv(a).split(16, -1)
        h = h + m.p(merged(F.scaled_dot_product_attention(*map(heads, (q, k, v)), is_causal=True)))
        return F.linear(m.last(h + m.mlp(h)), m.words.weight)

    mlp = nn.Sequential(
        nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 16)
    )
    return Net(
        forward,
        words=nn.Embedding(50, 16),
        places=nn.Embedding(12, 16),
        mlp=mlp,
        norm=nn.LayerNorm(16),
        qkv=nn.Linear(16, 48),
        p=nn.Linear(16, 16),
        last=nn.LayerNorm(16),
    ), *tokens()


@idiom
def latent_attention_mla():
    def mix(m, x):
        down = m.down(x)
        k, v = m.up(m.norm(down)).unflatten(-1, (HEADS, 8)).transpose(1, 2).chunk(2, -1)
        return merged(attend(heads(m.q(x)), k, v))

    return layer(
        mix, down=nn.Linear(WIDTH, 6), norm=nn.RMSNorm(6), up=nn.Linear(6, 32), k=None, v=None
    )


@idiom
def differential_attention():
    def mix(m, x):
        q, k = heads(m.q(x), 2), heads(m.k(x), 2)
        (a, b), (c, d) = q.chunk(2, -1), k.chunk(2, -1)
        weights = (a @ c.transpose(-2, -1)).softmax(-1)
        weights = weights - m.share * (b @ d.transpose(-2, -1)).softmax(-1)
        return merged(weights @ heads(m.v(x), 2))

    return layer(mix, share=nn.Parameter(torch.tensor(0.4)))


@idiom
def performer_features():
    def mix(m, x):
        q, k = (
            torch.exp(heads(t) @ m.random - heads(t).square().sum(-1, keepdim=True) / 2)
            for t in (m.q(x), m.k(x))
        )
        v = heads(m.v(x))
        norm = (q @ k.sum(2).unsqueeze(-1)) + 1e-6
        return merged(q @ (k.transpose(-2, -1) @ v) / norm)

    model, *inputs = layer(mix)
    model.register_buffer("random", torch.randn(4, 5))
    return model, *inputs


@idiom
def top_k_attention():
    def mix(m, x):
        scores = heads(m.q(x)) @ heads(m.k(x)).transpose(-2, -1)
        least = scores.topk(3, -1).values[..., -1:]
        return merged(scores.masked_fill(scores < least, -1e9).softmax(-1) @ heads(m.v(x)))

    return layer(mix)


@idiom
def retention_decay():
    def mix(m, x):
        steps = torch.arange(x.shape[1])
        gap = (steps[:, None] - steps).clamp(min=0)
        decay = torch.pow(m.rate.sigmoid()[:, None, None], gap) * (steps[:, None] >= steps)
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        y = (q @ k.transpose(-2, -1) * decay) @ v
        return m.norm(merged(y).flatten(0, 1)).view_as(x) * F.silu(m.g(x))

    return layer(
        mix, rate=weight(HEADS), norm=nn.GroupNorm(HEADS, WIDTH), g=nn.Linear(WIDTH, WIDTH)
    )


@idiom
def flex_positions_2d():
    def forward(m, x):
        h = m.i(x)
        h = h + m.rows[:, :, : h.shape[2], None] + m.columns[:, :, None, : h.shape[3]]
        return m.o(m.layer(h.flatten(2).transpose(1, 2)).mean(1))

    return Net(
        forward,
        i=nn.Conv2d(3, 16, 4, 4),
        rows=weight(1, 16, 6),
        columns=weight(1, 16, 6),
        layer=nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
        o=nn.Linear(16, 3),
    ), *images(16, other_size=24)


@idiom
def axial_attention():
    def forward(m, x):
        h = m.i(x).permute(0, 2, 3, 1)
        b, r, c, w = h.shape
        rows, _ = m.a(*[h.reshape(b * r, c, w)] * 3)
        h = h + rows.view(b, r, c, w)
        columns = h.transpose(1, 2).reshape(b * c, r, w)
        columns, _ = m.b(columns, columns, columns)
        return m.o((h + columns.view(b, c, r, w).transpose(1, 2)).mean((1, 2)))

    return Net(
        forward,
        i=nn.Conv2d(3, 16, 3),
        o=nn.Linear(16, 3),
        a=nn.MultiheadAttention(16, 4, batch_first=True),
        b=nn.MultiheadAttention(16, 2, batch_first=True),
    ), *images(8, other_size=10)


@idiom
def sequence_first_attention():
    def forward(m, x):
        h = m.i(x).transpose(0, 1)
        h = h + m.attention(h, h, h, need_weights=False)[0]
        return m.o(h.mean(0))

    return Net(
        forward, i=nn.Linear(6, 16), attention=nn.MultiheadAttention(16, 4), o=nn.Linear(16, 3)
    ), *sequences()


@idiom
def attention_returns_weights():
    def forward(m, x):
        h = m.i(x)
        y, weights = m.attention(h, h, h)
        return m.o(y.mean(1)), weights

    return Net(
        forward,
        i=nn.Linear(6, 16),
        o=nn.Linear(16, 3),
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
    ), *sequences()


@idiom
def parallel_block():
    def forward(m, x):
        h = m.i(x)
        q, k, v, up = m.all(m.norm(h)).split([16, 16, 16, 48], -1)
        mixed = merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v)))
        return m.o((h + m.out(torch.cat([mixed, F.gelu(up)], -1))).mean(1))

    return Net(
        forward,
        i=nn.Linear(6, 16),
        norm=nn.LayerNorm(16),
        all=nn.Linear(16, 96),
        out=nn.Linear(64, 16),
        o=nn.Linear(16, 3),
    ), *sequences()


@idiom
def adaptive_norm_dit():
    def forward(m, x, t):
        h = m.i(x)
        shift, scale, gate = m.condition(F.silu(m.time(t[:, None])))[:, None].chunk(3, -1)
        h = h + gate * m.mlp(m.norm(h) * (1 + scale) + shift)
        return m.o(h)

    mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
    examples = [(x, torch.rand(len(x))) for x in sequences()]
    return Net(
        forward,
        i=nn.Linear(6, 16),
        time=nn.Linear(1, 12),
        condition=nn.Linear(12, 48),
        norm=nn.LayerNorm(16, elementwise_affine=False),
        mlp=mlp,
        o=nn.Linear(16, 6),
    ), *examples


@idiom
def vit_with_class_token():
    def forward(m, x):
        h = m.i(x).flatten(2).transpose(1, 2)
        h = torch.cat([m.first.expand(len(h), -1, -1), h], 1) + m.places
        return m.o(m.layers(h)[:, 0])

    encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, activation="gelu")
    return Net(
        forward,
        i=nn.Conv2d(3, 16, 4, 4),
        first=weight(1, 1, 16),
        places=weight(1, 17, 16),
        layers=nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False),
        o=nn.Linear(16, 3),
    ), *images(16)


@idiom
def einops_rearranged():
    try:
        from einops import rearrange
    except ImportError:
        return softmax_attention()

    def mix(m, x):
        q, k, v = (rearrange(part(x), "b n (h d) -> b h n d", h=HEADS) for part in (m.q, m.k, m.v))
        return rearrange(attend(q, k, v), "b h n d -> b n (h d)")

    return layer(mix)


@idiom
def batch_and_heads_in_one():
    def mix(m, x):
        b, n, c = x.shape

        def split(y):
            return y.view(b, n, HEADS, 4).transpose(1, 2).reshape(b * HEADS, n, 4)

        y = torch.bmm(
            torch.bmm(split(m.q(x)), split(m.k(x)).transpose(1, 2)).softmax(-1), split(m.v(x))
        )
        return y.view(b, HEADS, n, 4).transpose(1, 2).reshape(b, n, c)

    return layer(mix)


@idiom
def baddbmm_attention():
    def mix(m, x):
        b, n, c = x.shape
        q, k, v = (heads(part(x)).flatten(0, 1) for part in (m.q, m.k, m.v))
        zeros = torch.zeros(len(q), n, n, dtype=x.dtype)
        scores = torch.baddbmm(zeros, q, k.transpose(1, 2), beta=0, alpha=0.5).softmax(-1)
        return merged(torch.bmm(scores, v).view(b, HEADS, n, -1))

    return layer(mix)
