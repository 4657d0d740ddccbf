"""`make bench`: how long the core takes on this machine, one thread. Compare within one run only.
"""
from functools import partial

import pytest
import torch

from starlight_nb.barriers import path_losses
from starlight_nb.data import load
from starlight_nb.matching import match_weights
from starlight_nb.models import build, initialise
from starlight_nb.permutation import infer_spec
from starlight_nb.star import train_star
from starlight_nb.training import Recipe, state_of, train, train_population

torch.set_num_threads(1)
NETWORKS = {"mlp 3x512": (partial(build, "mlp", width=512), (1, 8, 8)),
            "resnet18": (partial(build, "resnet18"), (3, 32, 32))}


@pytest.fixture(params=NETWORKS)
def network(request):
    make, shape = NETWORKS[request.param]
    return make, torch.randn(2, *shape)


def spec_and_states(make, x):
    "The spec, and two networks at random."
    return infer_spec(make(), x), *(state_of(initialise(make, seed)) for seed in (0, 1))


def test_infer_spec(benchmark, network):
    make, x = network
    benchmark.pedantic(infer_spec, (make(), x), rounds=3)


@pytest.mark.parametrize("order", ["forward", "random"])
def test_match_weights(benchmark, network, order):
    spec, a, b = spec_and_states(*network)
    benchmark.pedantic(match_weights, (spec, a, b), dict(order=order), rounds=3)


def test_match_weights_again(benchmark, network):
    spec, a, b = spec_and_states(*network)
    found = match_weights(spec, a, b).permutation
    benchmark.pedantic(match_weights, (spec, a, b), dict(init=found), rounds=3)


SMALL = {"mlp": partial(build, "mlp"), "resnet": partial(build, "resnet")}
RECIPE = Recipe(epochs=3, batch_size=100, lr=0.03)


@pytest.mark.parametrize("name", SMALL)
def test_train_three_epochs(benchmark, name):
    model = initialise(SMALL[name], 0)
    benchmark.pedantic(train, (model, load("digits"), RECIPE, 0), rounds=5)


@pytest.mark.parametrize("name", SMALL)
def test_train_star_three_epochs_of_ten_sources(benchmark, name):
    data, make = load("digits"), SMALL[name]
    sources = train_population(make, data, RECIPE, range(10))
    spec = infer_spec(make(), data.train.x[:2])
    star = initialise(make, 99)
    benchmark.pedantic(train_star, (star, sources, data, RECIPE), dict(spec=spec), rounds=5)


@pytest.mark.parametrize("name", SMALL)
def test_path_of_eleven_points(benchmark, name):
    data, make = load("digits"), SMALL[name]
    a, b = train_population(make, data, RECIPE, range(2))
    benchmark.pedantic(path_losses, (make(), a, b, data), rounds=5)
