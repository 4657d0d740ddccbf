"""PyTorch Geometric: its layers in networks of two, and some of its models."""

from functools import partial

import torch
import torch_geometric.nn as g
from torch import nn

from . import Net, register

BUILDERS = {}
add = register(BUILDERS)


def graph(nodes, edges, width=4):
    "Random nodes and edges."
    return torch.randn(nodes, width), torch.randint(0, nodes, (2, edges))


def graphs():
    "An example of a graph, and another one with more nodes and edges."
    return graph(6, 14), graph(8, 20)


def two_layers(first, second):
    "A network of two layers."

    def forward(m, x, edges):
        return m.b(m.a(x, edges).relu(), edges)

    return Net(forward, a=first(), b=second()), *graphs()


def mlp(i, o):
    return nn.Sequential(nn.Linear(i, 10), nn.ReLU(), nn.Linear(10, o))


for name, layer in {
    "GCNConv": g.GCNConv,
    "SAGEConv": g.SAGEConv,
    "GraphConv": g.GraphConv,
    "GATConv": g.GATConv,
    "GATv2Conv": g.GATv2Conv,
    "TransformerConv": g.TransformerConv,
    "TAGConv": g.TAGConv,
    "ChebConv": partial(g.ChebConv, K=2),
    "SGConv": g.SGConv,
    "LEConv": g.LEConv,
    "ARMAConv": g.ARMAConv,
    "ClusterGCNConv": g.ClusterGCNConv,
    "MFConv": g.MFConv,
    "FeaStConv": g.FeaStConv,
    "ResGatedGraphConv": g.ResGatedGraphConv,
    "GENConv": g.GENConv,
    "SuperGATConv": g.SuperGATConv,
    "SSGConv": partial(g.SSGConv, alpha=0.1),
    "FiLMConv": g.FiLMConv,
    "EGConv": partial(g.EGConv, num_heads=1),
    "GeneralConv": g.GeneralConv,
}.items():
    BUILDERS[name] = partial(two_layers, partial(layer, 4, 8), partial(layer, 8, 3))
BUILDERS["GATConv_heads"] = partial(
    two_layers, partial(g.GATConv, 4, 4, heads=2), partial(g.GATConv, 8, 3)
)
BUILDERS["GINConv"] = partial(
    two_layers, lambda: g.GINConv(mlp(4, 8)), lambda: g.GINConv(mlp(8, 3))
)
BUILDERS["EdgeConv"] = partial(
    two_layers, lambda: g.EdgeConv(mlp(8, 8)), lambda: g.EdgeConv(mlp(16, 3))
)
BUILDERS["APPNP"] = partial(
    two_layers,
    lambda: g.Sequential("x, e", [(nn.Linear(4, 8), "x -> x"), (g.APPNP(2, 0.1), "x, e -> x")]),
    partial(g.GraphConv, 8, 3),
)
for name, model in {
    "models_GCN": g.GCN,
    "models_GraphSAGE": g.GraphSAGE,
    "models_GIN": g.GIN,
    "models_GAT": g.GAT,
    "models_PNA": None,
    "models_EdgeCNN": g.EdgeCNN,
}.items():
    if model:
        BUILDERS[name] = lambda model=model: (model(4, 8, 2, 3), *graphs())


@add
def models_PNA():
    return g.PNA(
        4,
        8,
        2,
        3,
        aggregators=["mean", "max", "std"],
        scalers=["identity", "attenuation"],
        deg=torch.tensor([1, 2, 3, 1]),
    ), *graphs()


def pooled(pool):
    "A classifier of graphs."

    def forward(m, x, edges, batch):
        return m.o(pool(m.b(m.a(x, edges).relu(), edges).relu(), batch))

    examples = [(*own, torch.arange(len(own[0])) // 3) for own in graphs()]
    return Net(forward, a=g.GraphConv(4, 8), b=g.GraphConv(8, 10), o=nn.Linear(10, 3)), *examples


for name in ("global_mean_pool", "global_max_pool", "global_add_pool"):
    BUILDERS[name] = partial(pooled, getattr(g, name))


@add
def graph_norm_and_jumping_knowledge():
    def forward(m, x, edges):
        first = m.n(m.a(x, edges)).relu()
        second = m.b(first, edges).relu()
        return m.o(m.j([first, second]))

    return Net(
        forward,
        a=g.GraphConv(4, 8),
        n=g.GraphNorm(8),
        b=g.GraphConv(8, 8),
        j=g.JumpingKnowledge("cat"),
        o=nn.Linear(16, 3),
    ), *graphs()


@add
def message_with_edge_features():
    def forward(m, x, edges, features):
        return m.b(m.a(x, edges, features).relu(), edges, features)

    examples = [(*own, torch.randn(own[1].shape[1], 5)) for own in graphs()]
    return Net(
        forward, a=g.GINEConv(mlp(4, 8), edge_dim=5), b=g.GINEConv(mlp(8, 3), edge_dim=5)
    ), *examples


@add
def edge_conditioned_weights():
    def forward(m, x, edges, features):
        return m.o(m.a(x, edges, features).relu())

    examples = [(*own, torch.randn(own[1].shape[1], 5)) for own in graphs()]
    return Net(forward, a=g.NNConv(4, 8, mlp(5, 32)), o=nn.Linear(8, 3)), *examples


@add
def relational_layers():
    def forward(m, x, edges, kind):
        return m.b(m.a(x, edges, kind).relu(), edges, kind)

    examples = [(*own, torch.randint(0, 3, (own[1].shape[1],))) for own in graphs()]
    return Net(forward, a=g.RGCNConv(4, 8, 3), b=g.RGCNConv(8, 3, 3)), *examples


@add
def point_network():
    def forward(m, x, places, edges):
        h = m.a(x, places, edges).relu()
        return m.o(m.b(h, places, edges))

    examples = [(own[0], torch.randn(len(own[0]), 3), own[1]) for own in graphs()]
    return Net(
        forward,
        a=g.PointNetConv(mlp(7, 8), mlp(8, 8), add_self_loops=False),
        o=nn.Linear(9, 3),
        b=g.PointNetConv(mlp(11, 9), add_self_loops=False),
    ), *examples


@add
def dense_difference_pooling():
    def forward(m, x, a):
        h = m.a(x, a).relu()
        pooled, _, *losses = g.dense_diff_pool(h, a, m.p(x, a))
        return m.o(pooled.mean(1)), *losses

    examples = [(torch.randn(n, 7, 4), (torch.rand(n, 7, 7) > 0.5).float()) for n in (2, 3)]
    return Net(
        forward, a=g.DenseGraphConv(4, 8), p=g.DenseGraphConv(4, 3), o=nn.Linear(8, 3)
    ), *examples


@add
def SchNet():
    examples = [
        (torch.randint(1, 9, (n,)), 2 * torch.randn(n, 3), torch.zeros(n, dtype=torch.long))
        for n in (5, 6)
    ]

    def complete(places, batch):
        n = len(places)
        rows, columns = torch.triu_indices(n, n, 1)
        edges = torch.cat([torch.stack([rows, columns]), torch.stack([columns, rows])], 1)
        return edges, (places[edges[0]] - places[edges[1]]).norm(dim=1)

    return g.SchNet(8, 6, 2, 5, interaction_graph=complete), *examples
