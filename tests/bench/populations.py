"""`make bench`: populations beside a plain loop, and what a star costs beside a regular model.

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

from starlight_nb.data import load
from starlight_nb.models import build, initialise
from starlight_nb.permutation import infer_spec
from starlight_nb.runtime.files import write_atomic
from starlight_nb.star import Sources, train_star
from starlight_nb.training import Recipe, plan_population, train, train_population

OUT = Path(__file__).parents[2] / "reports/bench"
DIGITS = load("digits")
NETWORKS = {  # builder, how many, epochs, learning rate: those of the profile `digits`
    "MLP 3x64": (partial(build, "mlp", width=64), 20, 40, 0.05),
    "ResNet 8": (partial(build, "resnet", width=8), 8, 25, 0.03),
    "ResNet 16": (partial(build, "resnet", width=16), 8, 25, 0.03)}


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


def star_round(model, states, spec, recipe):
    "One round: a star's step and re-match beside a plain step and epoch; two matchings, in ms."
    matching, rematch = [], Sources.rematch
    def star(epochs, every):
        train_star(model, states, DIGITS, recipe.replace(epochs=epochs), spec=spec,
                   rematch_every=every, rematch="all")
    def between(run):  # the time of all epochs but the first
        whole = seconds(lambda: run(recipe.epochs), time.process_time)
        return whole - seconds(lambda: run(1), time.process_time)
    def timed(sources, theta, numbers):
        matching.append(seconds(lambda: rematch(sources, theta, numbers), time.process_time))
    one = between(lambda epochs: train(model, DIGITS, recipe.replace(epochs=epochs), 0))
    step = between(lambda epochs: star(epochs, None)) / one
    Sources.rematch = timed
    try: star(recipe.epochs, 1)
    finally: Sources.rematch = rematch
    first, later = matching[0], statistics.mean(matching[1:])
    return {"star's step, plain 1": step, "re-match, epoch 1": later / (one / (recipe.epochs - 1)),
            "first match, ms": 1000 * first, "re-match, ms": 1000 * later}


def star_row(name, make, recipe, rounds, count=20):
    """A step of a star beside a plain one, and its re-matches beside an epoch.

    What comes before and after the epochs is left out. It runs on one thread, so the processor's
    time counts."""
    model = initialise(make, 999)
    states = train_population(make, DIGITS, recipe, range(count), jobs=2)
    spec = infer_spec(model, DIGITS.train.x[:2])
    found = pd.DataFrame([star_round(model, states, spec, recipe) for _ in range(rounds)])
    return {"network": name, "sources": count, "batches an epoch": steps_per_epoch(recipe),
            **found.median().to_dict()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, and nothing is written")
    parser.add_argument("--jobs", type=int, default=2)
    options, _ = parser.parse_known_args()  # `make bench` passes the same options to all
    torch.set_num_threads(1)
    rounds = 1 if options.quick else 3
    populations, stars = [], []
    for name, (make, count, epochs, lr) in NETWORKS.items():
        recipe = recipe_of(2 if options.quick else epochs, lr)
        populations.append(population_row(name, make, count, recipe, options.jobs, rounds))
        print(populations[-1], flush=True)
        stars.append(star_row(name, make, recipe, rounds))
        print(stars[-1], flush=True)
    if options.quick: return
    write(pd.DataFrame(populations), pd.DataFrame(stars), options.jobs, rounds)


def write(populations, stars, jobs, rounds):
    "Write both tables."
    tables = [populations, stars]
    rows = pd.concat(tables).to_csv(index=False, float_format="%.4g", lineterminator="\n")
    write_atomic(OUT / "populations.csv", rows)
    first, second = (table.to_markdown(index=False, floatfmt=".3g") for table in tables)
    write_atomic(OUT / "populations.md",
                 f"# Populations and stars\n\nDigits, {jobs} jobs, one thread each; medians of "
                 f"{rounds} rounds. Seconds of the plain loop, which trains one network after "
                 "another, and of `train_population`, with the start of workers where there are "
                 f"any.\n\n{first}\n\n"
                 "A step of Starlight beside a plain step on the same batches, and a re-match of "
                 "all sources beside a plain epoch, in processor time of one thread."
                 f"\n\n{second}\n")


if __name__ == "__main__": main()
