"""`make bench`: what a star costs beside plain training, and what re-matching only drawn sources
changes.

    python tests/bench/stars.py [--quick]

Writes reports/bench/stars.csv, stars.md and stars.png. Seconds are the process's own, on one
thread.
"""
import argparse
import statistics
from functools import partial
from pathlib import Path
from time import process_time

import matplotlib
import pandas as pd
import torch
from scipy import stats

matplotlib.use("agg")
import matplotlib.pyplot as plt

from starlight_nb.barriers import loss_barrier, path_losses
from starlight_nb.data import load
from starlight_nb.evaluation import refresh_batchnorm
from starlight_nb.matching import match_weights
from starlight_nb.models import build, initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.runtime.files import write_atomic
from starlight_nb.star import REMATCHES, train_star
from starlight_nb.training import Recipe, train, train_population

torch.set_num_threads(1)
OUT = Path(__file__).parents[2] / "reports/bench"
DIGITS = load("digits")
COUNTS = (1, 10, 25, 50)  # sources
ROUNDS = 2                # whose median counts
PAIRS = 8                 # stars of each kind, with the same seeds
MODELS = {  # for the time, and for the barriers
    "MLP 5x128": (partial(build, "mlp", depth=5, width=128), 0.05),
    "MLP 5x32": (partial(build, "mlp", depth=5, width=32), 0.05),
    "ResNet 8": (partial(build, "resnet", width=8, blocks=(1, 1)), 0.03)}


def recipe_of(lr, epochs): return Recipe(epochs=epochs, batch_size=100, lr=lr, schedule="one-cycle")


def solutions(name, count, epochs):
    "The network, and trained states of it."
    make, lr = MODELS[name]
    states = train_population(make, DIGITS, recipe_of(lr, epochs), range(count), jobs=1)
    model = initialise(make, 999)
    return model, [refresh_batchnorm(model, state, DIGITS) for state in states]


def seconds(function):
    start = process_time()
    function()
    return process_time() - start


def costs(name, quick):
    "Rows: what stars of several numbers of sources cost, plain training of as many epochs being 1."
    make, lr = MODELS[name]
    model, states = solutions(name, max(COUNTS), 2 if quick else 40)
    recipe = recipe_of(lr, 3 if quick else 150)
    spec = infer_spec(model, DIGITS.train.x[:2])

    def star(count, rematch):
        train_star(model, states[:count], DIGITS, recipe, spec=spec, rematch=rematch)

    found = []
    for _ in range(1 if quick else ROUNDS):
        plain = seconds(lambda: train(model, DIGITS, recipe, 0))
        found += [dict(network=name, sources=count, rematch=rematch, plain=plain,
                       ratio=seconds(lambda: star(count, rematch)) / plain)
                  for count in COUNTS for rematch in REMATCHES]
        print(found[-1], flush=True)
    keys = ["network", "sources", "rematch"]
    return pd.DataFrame(found).groupby(keys, sort=False)[["plain", "ratio"]].median().reset_index()


def barriers_of(star, model, spec, others, init):
    "The mean barrier of a star to other networks."
    found = []
    for other, own in zip(others, init):
        matched = permute(spec, match_weights(spec, star.state, other, init=own).permutation, other)
        found.append(loss_barrier(path_losses(model, star.state, matched, DIGITS)))
    return statistics.mean(found)


def differences(name, quick):
    "Rows: for each seed a star of each kind, and its mean barriers to held-outs and to sources."
    make, lr = MODELS[name]
    model, states = solutions(name, 30, 2 if quick else 40)
    sources, heldouts = states[:25], states[25:]
    spec, found = infer_spec(model, DIGITS.train.x[:2]), []
    for seed in range(2 if quick else PAIRS):
        for rematch in REMATCHES:
            star = train_star(initialise(make, 1000 + seed), sources, DIGITS,
                              recipe_of(lr, 3 if quick else 150), spec=spec, seed=seed,
                              rematch=rematch)
            kinds = {"star-heldout": (heldouts, [None] * 5),
                     "star-source": (sources[:5], star.permutations[:5])}
            found += [dict(network=name, seed=seed, rematch=rematch, pair=pair,
                           barrier=barriers_of(star, model, spec, *others))
                      for pair, others in kinds.items()]
        print(found[-1], flush=True)
    return found


def compared(frame):
    "For each network and kind of pair the mean barriers, and the mean difference with its interval."
    rows = []
    for (network, pair), own in frame.groupby(["network", "pair"], sort=False):
        wide = own.pivot_table(index="seed", columns="rematch", values="barrier")
        difference = wide["drawn"] - wide["all"]
        error = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
        rows.append({"network": network, "pair": pair, "drawn": wide["drawn"].mean(),
                     "all": wide["all"].mean(), "difference": difference.mean(),
                     "low": difference.mean() - error, "high": difference.mean() + error,
                     "pairs of stars": len(difference)})
    return pd.DataFrame(rows)


def draw(table, path):
    "The cost of a star against its number of sources, a line for each way to re-match."
    figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
    for (rematch, own), style in zip(table.groupby("rematch", sort=False), ("o-", "s--")):
        axis.plot(own.sources, own.ratio, style, markersize=4, label=f"{rematch} sources re-matched")
    axis.axhline(1, color="0.6", linewidth=1)
    axis.set(xlabel="sources", ylabel="processor time (plain training = 1)", ylim=(0, None),
             title=", ".join(table.network.unique()))
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def write(cost, rows):
    "Write the rows, the text and the picture."
    frame, table = pd.DataFrame(rows), compared(pd.DataFrame(rows))
    every = pd.concat([cost, frame]).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomic(OUT / "stars.csv", every)
    wide = cost.pivot_table(index="sources", columns="rematch", values="ratio").reset_index()
    write_atomic(OUT / "stars.md", f"""# What a star costs

Processor time of a star on digits, beside plain training of the same network for the same 150 epochs of 14 batches, which takes {cost.plain.median():.2f} seconds. One thread, medians of {ROUNDS} rounds. An epoch of 14 batches draws at most 14 sources.

{wide.to_markdown(index=False, floatfmt=".3g")}

![the same as a picture](stars.png)

## Does it change the barriers?

Stars of 25 sources on digits, in pairs with the same initialisation, batches and draws. In one, only the drawn sources are re-matched; in the other, all of them. Training-loss barriers in nats; the difference is drawn minus all, with its 95 % interval (Student's t).

{table.to_markdown(index=False, floatfmt=".4f")}
""")
    draw(cost, OUT / "stars.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, and nothing is written")
    options, _ = parser.parse_known_args()  # `make bench` passes the same options to all
    cost = costs("MLP 5x128", options.quick)
    rows = [row for name in ("MLP 5x32", "ResNet 8") for row in differences(name, options.quick)]
    if options.quick: print(cost, compared(pd.DataFrame(rows)), sep="\n")
    else: write(cost, rows)


if __name__ == "__main__": main()
