"""`make bench`: populations beside a plain loop, and images in two memory formats.

    python tests/bench/populations.py [--quick] [--jobs N]

The plain loop is the one that everybody writes: one network after another, PyTorch's own optimiser
and schedule, the data as tensors. Writes reports/bench/populations.csv and .md.
"""
import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from joblib.externals.loky import get_reusable_executor
from torch.nn import functional as F

from starlight_nb.data import Split, load
from starlight_nb.evaluation import evaluate
from starlight_nb.models import build, initialise
from starlight_nb.runtime.files import write_atomic
from starlight_nb.training import Recipe, plan_population, state_of, train_population
from starlight_nb.training.networks import FlatModule, format_for

OUT = Path(__file__).parents[2] / "reports/bench"
DIGITS = load("digits")
NETWORKS = {  # builder, how many, epochs, learning rate: those of the profile `digits`
    "MLP 3x64": (partial(build, "mlp", width=64), 20, 40, 0.05),
    "ResNet 8": (partial(build, "resnet", width=8), 8, 25, 0.03)}


def resnet(width): return partial(build, "resnet", width=width, channels_in=3)


FORMATS = {  # builder, pixels of a side
    "ResNet 8": (resnet(8), 32), "ResNet 16": (resnet(16), 32), "ResNet 32": (resnet(32), 32),
    "ResNet 16, few pixels": (resnet(16), 8), "WRN-22-1": (partial(build, "wideresnet"), 32),
    "VGG11, width 16": (partial(build, "vgg11", width=16), 32), "VGG11": (partial(build, "vgg11"), 32),
    "ResNet-18": (partial(build, "resnet18"), 32)}


def recipe_of(epochs, lr): return Recipe(epochs=epochs, batch_size=100, lr=lr, schedule="one-cycle")


def steps_per_epoch(recipe): return -(-len(DIGITS.train) // recipe.batch_size)


def plain(make, recipe, seed):
    "One network, as everybody trains it."
    torch.manual_seed(seed)
    model = make()
    x, y = DIGITS.train.x, DIGITS.train.y
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum,
                                weight_decay=recipe.weight_decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.epochs * steps_per_epoch(recipe),
        cycle_momentum=False)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(x)).split(recipe.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()


def seconds(function, clock=time.perf_counter):
    start = clock()
    function()
    return clock() - start


def population_row(name, make, count, recipe, jobs, rounds):
    "Medians of several rounds; workers, where there are any, are started anew in each."
    def loop():
        for seed in range(count): plain(make, recipe, seed)
    def population(): train_population(make, DIGITS, recipe, range(count), jobs)
    loops, ours = [], []
    for _ in range(rounds):
        loops.append(seconds(loop))
        get_reusable_executor().shutdown(wait=True)
        ours.append(seconds(population))
    plan = plan_population(make(), DIGITS, recipe, count, jobs)
    faster = statistics.median(a / b for a, b in zip(loops, ours))
    return dict(network=name, models=count, epochs=recipe.epochs, plain=statistics.median(loops),
                ours=statistics.median(ours), faster=faster, how=str(plan))


def step_seconds(network, x, y): return seconds(lambda: network.backward(x, y), time.process_time)


def format_row(name, rounds):
    "How much faster a step and an evaluation are with channels side by side in memory."
    make, side = FORMATS[name]
    model = initialise(make, 0)
    data = Split(torch.randn(200, 3, side, side), torch.arange(200) % 10)
    x, y = data.x[:100], data.y[:100]
    recipes = [Recipe(channels_last=last) for last in (False, True)]
    networks = [FlatModule(model, recipe) for recipe in recipes]
    state, steps, evaluations = state_of(model), [], []
    for network in networks: network.backward(x, y)
    for _ in range(2 * rounds + 1):
        steps.append([step_seconds(network, x, y) for network in networks])
        evaluations.append([seconds(lambda: evaluate(model, state, data, recipe=recipe),
                                    time.process_time) for recipe in recipes])
    faster = [statistics.median(a / b for a, b in pairs) for pairs in (steps, evaluations)]
    chosen = format_for(model, Recipe(), x).channels_last
    return {"network": name, "pixels": f"{side} x {side}",
            "parameters (M)": sum(p.numel() for p in model.parameters()) / 1e6,
            "training": faster[0], "evaluation": faster[1], "chosen": "yes" if chosen else "no"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, and nothing is written")
    parser.add_argument("--jobs", type=int, default=2)
    options, _ = parser.parse_known_args()  # `make` passes the same options to all
    torch.set_num_threads(1)
    rounds = 1 if options.quick else 2
    populations = []
    for name, (make, count, epochs, lr) in NETWORKS.items():
        recipe = recipe_of(2 if options.quick else epochs, lr)
        populations.append(population_row(name, make, count, recipe, options.jobs, rounds))
        print(populations[-1], flush=True)
    formats = [format_row(name, rounds) for name in FORMATS]
    print(formats)
    if options.quick: return
    write(pd.DataFrame(populations), pd.DataFrame(formats), options.jobs, rounds)


def write(populations, formats, jobs, rounds):
    "Write both tables."
    tables = [populations, formats]
    rows = pd.concat(tables).to_csv(index=False, float_format="%.4g", lineterminator="\n")
    write_atomic(OUT / "populations.csv", rows)
    first, second = (table.to_markdown(index=False, floatfmt=".3g") for table in tables)
    write_atomic(OUT / "populations.md",
                 f"# Populations\n\nDigits, {jobs} jobs, one thread each; medians of "
                 f"{rounds} rounds. Seconds of the plain loop, which trains one network after "
                 "another, and of `train_population`, with the start of workers where there are "
                 f"any.\n\n{first}\n\n"
                 "## The memory format of images\n\nHow many times as fast a training step and an "
                 "evaluation are with an image's channels side by side in memory "
                 "(`channels_last`), in processor time of one thread, on images at random. "
                 "`chosen` says where a recipe that leaves the format open uses it."
                 f"\n\n{second}\n")


if __name__ == "__main__": main()
