"""Sets, graphs, points and comparisons in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn

from . import Net, images, register, sequences, tokens, vectors, weight

BUILDERS = {}
idiom = register(BUILDERS)


def graph(nodes=6, edges=14, width=4):
    "Random nodes and edges."
    return torch.randn(nodes, width), torch.randint(0, nodes, (2, edges))


def graphs():
    "An example of a graph, and another one with more nodes and edges."
    return graph(), graph(8, 20)


def mlp(*widths):
    "Linear maps with ReLU between them."
    layers = [
        part
        for i, o in zip(widths, widths[1:], strict=False)
        for part in (nn.Linear(i, o), nn.ReLU())
    ]
    return nn.Sequential(*layers[:-1])


@idiom
def deep_sets():
    return Net(lambda m, x: m.o(m.i(x).sum(1)), i=mlp(6, 12, 10), o=mlp(10, 12, 3)), *sequences()


@idiom
def equivariant_deep_sets():
    def forward(m, x):
        h = (m.a(x) - m.b(x.max(1, keepdim=True)[0])).relu()
        return m.o(h.mean(1))

    return Net(
        forward, a=nn.Linear(6, 12), b=nn.Linear(6, 12, bias=False), o=nn.Linear(12, 3)
    ), *sequences()


@idiom
def point_net():
    def forward(m, x):
        x = x.transpose(1, 2)
        turn = m.t(m.s(x).amax(2)).view(-1, 3, 3) + torch.eye(3, dtype=x.dtype)
        h = m.a(torch.bmm(turn, x)).relu()
        top = torch.max(m.b(h).relu(), 2, keepdim=True)[0]
        return m.o(torch.cat([h, top.expand(-1, -1, h.shape[2])], 1))

    return Net(
        forward,
        s=nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU()),
        t=nn.Linear(8, 9),
        a=nn.Conv1d(3, 10, 1),
        b=nn.Conv1d(10, 12, 1),
        o=nn.Conv1d(22, 4, 1),
    ), *sequences(3)


def nearest(x, k=3):
    "The numbers of the nearest points."
    return torch.cdist(x, x).topk(k, largest=False).indices


@idiom
def edge_conv_nearest_neighbours():
    def forward(m, x):
        index = nearest(x)
        b, n, k = index.shape
        near = x[torch.arange(b).view(-1, 1, 1), index]
        own = x.unsqueeze(2).expand(-1, -1, k, -1)
        return m.o(m.a(torch.cat([own, near - own], -1)).relu().amax(2).mean(1))

    return Net(forward, a=nn.Linear(6, 12), o=nn.Linear(12, 3)), *sequences(3)


@idiom
def dynamic_graph_features():
    def forward(m, x):
        h = m.i(x).relu()
        index = nearest(h)
        near = torch.gather(
            h.unsqueeze(1).expand(-1, h.shape[1], -1, -1),
            2,
            index.unsqueeze(-1).expand(-1, -1, -1, h.shape[-1]),
        )
        return m.o(m.a(near - h.unsqueeze(2)).amax(2).mean(1))

    return Net(forward, i=nn.Linear(3, 8), a=nn.Linear(8, 12), o=nn.Linear(12, 3)), *sequences(3)


@idiom
def graph_convolution_dense():
    def forward(m, x, a):
        a = a + torch.eye(a.shape[-1], dtype=x.dtype)
        scale = a.sum(-1).rsqrt()
        a = scale.unsqueeze(-1) * a * scale.unsqueeze(-2)
        return m.b(a @ m.a(a @ x).relu())

    examples = [
        (x, (torch.rand(len(x), n, n) > 0.5).float())
        for x, n in zip(sequences(), (7, 9), strict=True)
    ]
    return Net(forward, a=nn.Linear(6, 12), b=nn.Linear(12, 3)), *examples


@idiom
def graph_convolution_index_add():
    def forward(m, x, edges):
        source, target = edges
        h = m.a(x)
        h = torch.zeros_like(h).index_add(0, target, h[source]).relu()
        return m.b(h)

    return Net(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 3)), *graphs()


@idiom
def graph_convolution_degrees():
    def forward(m, x, edges):
        source, target = edges
        degree = torch.zeros(len(x), dtype=x.dtype).index_add_(
            0, target, torch.ones_like(x[target, 0])
        )
        scale = degree.clamp(min=1).rsqrt()
        h = m.a(x)[source] * (scale[source] * scale[target]).unsqueeze(-1)
        h = torch.zeros(len(x), 12, dtype=x.dtype).index_add_(0, target, h)
        return m.b(h.relu())

    return Net(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 3)), *graphs()


@idiom
def message_passing_scatter_add():
    def forward(m, x, edges):
        h = m.i(x)
        message = m.e(torch.cat([h[edges[0]], h[edges[1]]], -1)).relu()
        index = edges[1].unsqueeze(-1).expand_as(message)
        total = torch.zeros(len(x), message.shape[1], dtype=x.dtype).scatter_add(0, index, message)
        return m.o(m.u(total, h))

    return Net(
        forward, i=nn.Linear(4, 12), e=nn.Linear(24, 10), u=nn.GRUCell(10, 12), o=nn.Linear(12, 3)
    ), *graphs()


@idiom
def sage_scatter_reduce_mean():
    def forward(m, x, edges):
        for own, near in zip(m.own, m.near, strict=True):
            index = edges[1].unsqueeze(-1).expand(-1, x.shape[1])
            mean = torch.zeros_like(x).scatter_reduce(
                0, index, x[edges[0]], "mean", include_self=False
            )
            x = (own(x) + near(mean)).relu()
        return m.o(x)

    return Net(
        forward,
        own=nn.ModuleList([nn.Linear(4, 12), nn.Linear(12, 10)]),
        near=nn.ModuleList([nn.Linear(4, 12, bias=False), nn.Linear(12, 10, bias=False)]),
        o=nn.Linear(10, 3),
    ), *graphs()


@idiom
def isomorphism_network():
    def forward(m, x, edges):
        total = torch.zeros_like(x).index_add(0, edges[1], x.index_select(0, edges[0]))
        h = m.a((1 + m.e) * x + total)
        total = torch.zeros_like(h).index_add(0, edges[1], h.index_select(0, edges[0]))
        return m.o(m.b((1 + m.e) * h + total).sum(0, keepdim=True))

    return Net(
        forward,
        a=mlp(4, 12, 12),
        b=mlp(12, 14, 10),
        e=nn.Parameter(torch.zeros(())),
        o=nn.Linear(10, 3),
    ), *graphs()


@idiom
def graph_attention_dense():
    def forward(m, x, a):
        h = m.w(x).unflatten(-1, (2, -1))
        scores = F.leaky_relu((h * m.s).sum(-1).unsqueeze(2) + (h * m.t).sum(-1).unsqueeze(1), 0.2)
        scores = scores.masked_fill(a.unsqueeze(-1) == 0, -1e9).softmax(2)
        return m.o(F.elu(torch.einsum("bijh,bjhd->bihd", scores, h).flatten(2)))

    examples = [
        (x, (torch.rand(len(x), n, n) > 0.3).float())
        for x, n in zip(sequences(), (7, 9), strict=True)
    ]
    return Net(
        forward, w=nn.Linear(6, 12), s=weight(2, 6), t=weight(2, 6), o=nn.Linear(12, 3)
    ), *examples


@idiom
def graph_attention_scatter():
    def forward(m, x, edges):
        source, target = edges
        h = m.w(x).view(-1, 2, 6)
        scores = F.leaky_relu((h[source] * m.s + h[target] * m.t).sum(-1), 0.2).exp()
        norm = torch.zeros(len(x), 2, dtype=x.dtype).index_add(0, target, scores)
        share = scores / (norm[target] + 1e-9)
        out = torch.zeros_like(h).index_add(0, target, share.unsqueeze(-1) * h[source])
        return m.o(F.elu(out.flatten(1)))

    return Net(
        forward, w=nn.Linear(4, 12), s=weight(2, 6), t=weight(2, 6), o=nn.Linear(12, 3)
    ), *graphs()


@idiom
def graph_pooling_by_batch():
    def forward(m, x, edges, batch):
        h = m.a(x)
        h = (h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])).relu()
        mean = torch.zeros(3, h.shape[1], dtype=x.dtype).scatter_reduce(
            0, batch[:, None].expand_as(h), h, "amax", include_self=False
        )
        return m.b(mean)

    examples = [(*own, torch.arange(len(own[0])) // 3) for own in graphs()]
    return Net(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 3)), *examples


@idiom
def relational_graph():
    def forward(m, x, edges, kind):
        h = torch.bmm(x[edges[0]].unsqueeze(1), m.w[kind]).squeeze(1)
        return m.o((m.s(x).index_add(0, edges[1], h)).relu())

    examples = [(*own, torch.randint(0, 3, (own[1].shape[1],))) for own in graphs()]
    return Net(forward, w=weight(3, 4, 12), s=nn.Linear(4, 12), o=nn.Linear(12, 3)), *examples


@idiom
def sparse_adjacency():
    def forward(m, x, edges):
        a = torch.sparse_coo_tensor(
            edges, torch.ones(edges.shape[1], dtype=x.dtype), (len(x), len(x))
        )
        return m.b(torch.sparse.mm(a, m.a(x)).relu())

    return Net(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 3)), *graphs()


@idiom
def chebyshev_filters():
    def forward(m, x, a):
        terms = [x, a @ x]
        terms.append(2 * a @ terms[-1] - terms[-2])
        h = sum(part(t) for part, t in zip(m.parts, terms, strict=True)).relu()
        return m.o(h)

    examples = [(x, torch.rand(len(x), n, n) / n) for x, n in zip(sequences(), (7, 9), strict=True)]
    return Net(
        forward, parts=nn.ModuleList(nn.Linear(6, 12) for _ in range(3)), o=nn.Linear(12, 3)
    ), *examples


@idiom
def continuous_filter_schnet():
    def forward(m, kinds, places):
        h = m.kinds(kinds)
        gap = torch.cdist(places, places).unsqueeze(-1)
        basis = torch.exp(-4 * (gap - torch.linspace(0, 3, 8, dtype=places.dtype)).square())
        filters = m.f(basis)
        h = h + m.u((filters * m.v(h).unsqueeze(1)).sum(2))
        return m.o(h).sum((1, 2))

    examples = [(torch.randint(0, 9, x.shape[:2]), x) for x in sequences(3)]
    return Net(
        forward,
        kinds=nn.Embedding(9, 12),
        f=mlp(8, 10, 12),
        v=nn.Linear(12, 12, bias=False),
        u=mlp(12, 12, 12),
        o=mlp(12, 8, 1),
    ), *examples


@idiom
def equivariant_graph_egnn():
    def forward(m, h, x):
        h = m.i(h)
        gap = x.unsqueeze(2) - x.unsqueeze(1)
        n = h.shape[1]
        pair = torch.cat(
            [
                h.unsqueeze(2).expand(-1, -1, n, -1),
                h.unsqueeze(1).expand(-1, n, -1, -1),
                gap.square().sum(-1, keepdim=True),
            ],
            -1,
        )
        message = F.silu(m.e(pair))
        x = x + (gap * m.x(message)).mean(2)
        return m.o(m.h(torch.cat([h, message.sum(2)], -1))), x

    examples = [(h, torch.randn(*h.shape[:2], 3)) for h in sequences(4)]
    return Net(
        forward,
        i=nn.Linear(4, 10),
        e=nn.Linear(21, 12),
        x=nn.Linear(12, 1),
        h=nn.Linear(22, 10),
        o=nn.Linear(10, 2),
    ), *examples


@idiom
def relation_network():
    def forward(m, x):
        n = x.shape[1]
        a, b = x.unsqueeze(2).repeat(1, 1, n, 1), x.unsqueeze(1).repeat(1, n, 1, 1)
        return m.f(m.g(torch.cat([a, b], -1)).sum((1, 2)))

    return Net(forward, g=mlp(12, 14, 10), f=mlp(10, 8, 3)), *sequences()


@idiom
def tree_lstm_child_sum():
    def forward(m, x):
        leaves = m.i(x)
        h, c = leaves.tanh(), leaves
        while h.shape[1] > 1:
            left, right = h[:, ::2], h[:, 1::2]
            i, f, g, o, u = m.c(torch.cat([left, right], -1)).chunk(5, -1)
            c = i.sigmoid() * g.tanh() + f.sigmoid() * c[:, ::2] + u.sigmoid() * c[:, 1::2]
            h = o.sigmoid() * c.tanh()
        return m.o(h[:, 0])

    return Net(forward, i=nn.Linear(6, 8), c=nn.Linear(16, 40), o=nn.Linear(8, 3)), *sequences(
        length=4, other_length=8
    )


def encoder():
    return mlp(6, 12, 10)


@idiom
def contrastive_cosine():
    def forward(m, x, y):
        return F.cosine_similarity(m.e(x), m.e(y))

    examples = [(x, torch.randn_like(x)) for x in vectors()]
    return Net(forward, e=encoder()), *examples


@idiom
def contrastive_pairwise_distance():
    def forward(m, x, y):
        return F.pairwise_distance(m.e(x), m.e(y))

    examples = [(x, torch.randn_like(x)) for x in vectors()]
    return Net(forward, e=encoder()), *examples


@idiom
def prototypes_cdist():
    def forward(m, support, query):
        centres = m.e(support).mean(1)
        return -torch.cdist(m.e(query), centres)

    examples = [(torch.randn(3, 4, 6), torch.randn(n, 6)) for n in (5, 7)]
    return Net(forward, e=encoder()), *examples


@idiom
def prototypes_expanded_square():
    def forward(m, support, query):
        centres, q = m.e(support).mean(1), m.e(query)
        return -(q.unsqueeze(1) - centres.unsqueeze(0)).pow(2).sum(2)

    examples = [(torch.randn(3, 4, 6), torch.randn(n, 6)) for n in (5, 7)]
    return Net(forward, e=encoder()), *examples


@idiom
def matching_network_cosine_matrix():
    def forward(m, support, query):
        a, b = F.normalize(m.e(query), dim=-1), F.normalize(m.e(support), dim=-1)
        return (a @ b.T * m.scale.exp()).softmax(-1)

    examples = [(torch.randn(4, 6), torch.randn(n, 6)) for n in (5, 7)]
    return Net(forward, e=encoder(), scale=nn.Parameter(torch.tensor(2.0))), *examples


@idiom
def cosine_classifier():
    def forward(m, x):
        return 10 * F.linear(F.normalize(m.e(x)), F.normalize(m.w))

    return Net(forward, e=encoder(), w=weight(5, 10)), *vectors()


@idiom
def arc_face_logits():
    def forward(m, x):
        cosine = F.normalize(m.e(x)) @ F.normalize(m.w, dim=0)
        return torch.cos(torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7)) + 0.1) * 8

    return Net(forward, e=encoder(), w=weight(10, 5)), *vectors()


@idiom
def text_image_two_towers():
    def forward(m, image, text):
        a = F.normalize(m.p(m.c(image).relu().mean((2, 3))), dim=-1)
        b = F.normalize(m.q(m.words(text).mean(1)), dim=-1)
        scores = m.scale.exp() * a @ b.t()
        return scores, scores.t()

    examples = list(zip(images(8), tokens(), strict=True))
    return Net(
        forward,
        c=nn.Conv2d(3, 10, 3),
        p=nn.Linear(10, 8),
        words=nn.Embedding(50, 9),
        q=nn.Linear(9, 8),
        scale=nn.Parameter(torch.tensor(2.6)),
    ), *examples


@idiom
def neural_tensor_bilinear():
    def forward(m, x, y):
        return m.o((m.b(m.i(x), m.i(y)) + m.l(torch.cat([m.i(x), m.i(y)], 1))).tanh())

    examples = [(x, torch.randn_like(x)) for x in vectors()]
    return Net(
        forward, i=nn.Linear(6, 8), b=nn.Bilinear(8, 8, 12), l=nn.Linear(16, 12), o=nn.Linear(12, 3)
    ), *examples


@idiom
def low_rank_bilinear():
    def forward(m, x, y):
        return m.o(m.a(x).tanh() * m.b(y).tanh())

    examples = [(x, torch.randn(len(x), 5)) for x in vectors()]
    return Net(forward, a=nn.Linear(6, 12), b=nn.Linear(5, 12), o=nn.Linear(12, 3)), *examples


@idiom
def tensor_fusion_outer_product():
    def forward(m, x, y):
        a = torch.cat([m.a(x).relu(), torch.ones_like(x[:, :1])], 1)
        b = torch.cat([m.b(y).relu(), torch.ones_like(y[:, :1])], 1)
        return m.o(torch.bmm(a.unsqueeze(2), b.unsqueeze(1)).flatten(1))

    examples = [(x, torch.randn(len(x), 5)) for x in vectors()]
    return Net(forward, a=nn.Linear(6, 7), b=nn.Linear(5, 4), o=nn.Linear(40, 3)), *examples


@idiom
def knowledge_graph_translation():
    def forward(m, head, relation, tail):
        return -(m.e(head) + m.r(relation) - m.e(tail)).norm(p=1, dim=-1)

    examples = [tuple(torch.randint(0, 9, (n,)) for _ in range(3)) for n in (4, 5)]
    return Net(forward, e=nn.Embedding(20, 8), r=nn.Embedding(9, 8)), *examples


@idiom
def knowledge_graph_rotation():
    def forward(m, head, relation, tail):
        a, b = m.e(head).chunk(2, -1)
        c, d = m.e(tail).chunk(2, -1)
        turn = m.r(relation)
        x, y = a * turn.cos() - b * turn.sin() - c, a * turn.sin() + b * turn.cos() - d
        return torch.stack([x, y]).norm(dim=0).sum(-1)

    examples = [tuple(torch.randint(0, 9, (n,)) for _ in range(3)) for n in (4, 5)]
    return Net(forward, e=nn.Embedding(20, 16), r=nn.Embedding(9, 8)), *examples


@idiom
def vector_quantiser():
    def forward(m, x):
        z = m.e(x)
        gap = (
            z.square().sum(1, keepdim=True)
            - 2 * z @ m.codes.weight.t()
            + m.codes.weight.square().sum(1)
        )
        q = m.codes(gap.argmin(1))
        return m.d(z + (q - z).detach())

    return Net(forward, e=encoder(), codes=nn.Embedding(8, 10), d=mlp(10, 12, 6)), *vectors()


@idiom
def vector_quantiser_one_hot():
    def forward(m, x):
        z = m.e(x)
        index = torch.cdist(z, m.codes).argmin(1).unsqueeze(1)
        one_hot = torch.zeros(len(z), 8, dtype=z.dtype).scatter_(1, index, 1)
        return m.d(one_hot @ m.codes)

    return Net(forward, e=encoder(), codes=weight(8, 10), d=mlp(10, 12, 6)), *vectors()


@idiom
def residual_quantiser():
    def forward(m, x):
        rest, total = m.e(x), 0
        for codes in m.codes:
            q = codes[torch.cdist(rest, codes).argmin(-1)]
            rest, total = rest - q, total + q
        return m.d(total)

    return Net(
        forward,
        e=encoder(),
        codes=nn.ParameterList(weight(8, 10) for _ in range(2)),
        d=mlp(10, 12, 6),
    ), *vectors()


@idiom
def finite_scalar_quantiser():
    def forward(m, x):
        z = m.e(x).tanh() * 2
        return m.d(z + (z.round() - z).detach())

    return Net(forward, e=encoder(), d=mlp(10, 12, 6)), *vectors()


@idiom
def gumbel_softmax_codes():
    def forward(m, x):
        share = F.gumbel_softmax(m.e(x), tau=1.0) if m.training else m.e(x).softmax(-1)
        return m.d(share @ m.codes)

    return Net(forward, e=encoder(), codes=weight(10, 7), d=mlp(7, 12, 6)), *vectors()


@idiom
def clustering_student_t():
    def forward(m, x):
        z = m.e(x)
        q = 1 / (1 + (z.unsqueeze(1) - m.centres).square().sum(2))
        return (q.T / q.sum(1)).T

    return Net(forward, e=encoder(), centres=weight(4, 10)), *vectors()


@idiom
def radial_basis_network():
    def forward(m, x):
        gap = (x.unsqueeze(1) - m.centres).pow(2).sum(-1)
        return m.o(torch.exp(-gap * m.rates.exp()))

    return Net(forward, centres=weight(12, 6), rates=weight(12), o=nn.Linear(12, 3)), *vectors()


@idiom
def set_transformer_seed_pooling():
    def forward(m, x):
        h = m.i(x)
        pooled, _ = m.a(m.seeds.repeat(len(x), 1, 1), h, h)
        return m.o(pooled.flatten(1))

    return Net(
        forward,
        i=nn.Linear(6, 16),
        seeds=weight(1, 2, 16),
        o=nn.Linear(32, 3),
        a=nn.MultiheadAttention(16, 4, batch_first=True),
    ), *sequences()


@idiom
def masked_mean_and_max():
    def forward(m, x, mask):
        h = m.i(x).relu()
        own = mask.unsqueeze(-1)
        mean = (h * own).sum(1) / own.sum(1).clamp(min=1)
        top = h.masked_fill(own == 0, float("-inf")).amax(1)
        return m.o(torch.cat([mean, top], -1))

    examples = []
    for x in sequences():
        mask = torch.ones(x.shape[:2])
        mask[0, -3:] = 0
        examples.append((x, mask))
    return Net(forward, i=nn.Linear(6, 12), o=nn.Linear(24, 3)), *examples


@idiom
def sort_pooling():
    def forward(m, x):
        h = m.i(x).tanh()
        order = h[..., -1].argsort(1, descending=True)[:, :4]
        h = h.gather(1, order.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
        return m.o(h.flatten(1))

    return Net(forward, i=nn.Linear(6, 8), o=nn.Linear(32, 3)), *sequences()


@idiom
def featurewise_sort_pooling():
    def forward(m, x):
        return m.o(m.i(x).sort(1).values[:, :4].flatten(1))

    return Net(forward, i=nn.Linear(6, 8), o=nn.Linear(32, 3)), *sequences()


@idiom
def k_max_pooling():
    def forward(m, x):
        return m.o(m.c(x.transpose(1, 2)).topk(3, dim=2).values.flatten(1))

    return Net(forward, c=nn.Conv1d(6, 8, 3), o=nn.Linear(24, 3)), *sequences()


@idiom
def optimal_transport_sinkhorn():
    def forward(m, x, y):
        scores = m.e(x) @ m.e(y).transpose(1, 2)
        for _ in range(3):
            scores = scores - scores.logsumexp(2, keepdim=True)
            scores = scores - scores.logsumexp(1, keepdim=True)
        return scores.exp()

    examples = [(x, torch.randn_like(x)) for x in sequences()]
    return Net(forward, e=encoder()), *examples


@idiom
def hopfield_memory():
    def forward(m, x):
        h = m.i(x)
        for _ in range(2):
            h = (2 * h @ m.patterns.T).softmax(-1) @ m.patterns
        return m.o(h)

    return Net(forward, i=nn.Linear(6, 10), patterns=weight(7, 10), o=nn.Linear(10, 3)), *vectors()


@idiom
def key_value_memory():
    def forward(m, x):
        q = m.i(x)
        top, index = (q @ m.keys.T).topk(3, -1)
        return m.o((top.softmax(-1).unsqueeze(-1) * m.values[index]).sum(1))

    return Net(
        forward, i=nn.Linear(6, 10), keys=weight(9, 10), values=weight(9, 12), o=nn.Linear(12, 3)
    ), *vectors()
