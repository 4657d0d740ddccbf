"""`make bench-studies`: estimators of the star objective at equal cost.

They differ in where t is drawn, in how many parts a batch is cut, and in whether the star's own
loss is added.

    python tests/bench/estimators.py [--quick] [--mnist ROOT] [--jobs N]

An estimator with the star's own loss makes two passes a step, and gets half of the epochs.
Writes reports/bench/estimators.csv, .md and .png.
"""
import argparse
from pathlib import Path

import matplotlib
import pandas as pd
from matching_networks import trained_networks

matplotlib.use("agg")
import matplotlib.pyplot as plt

from starlight_nb.barriers import loss_barrier, path_losses
from starlight_nb.evaluation import evaluate, refresh_batchnorm
from starlight_nb.matching import match_weights
from starlight_nb.models import initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.jobs import run_jobs
from starlight_nb.star import train_star
from starlight_nb.statistics import bootstrap_mean
from starlight_nb.training import train_population

OUT = Path(__file__).parents[2] / "reports/bench"
SAMPLINGS = {"uniform": {}, "uniform, 4 draws": {"segments_per_batch": 4},
             "beta": {"t_sampling": "beta"}, "adaptive": {"t_sampling": "adaptive"},
             "constant 0.5": {"t_sampling": 0.5}}
ESTIMATORS = SAMPLINGS | {f"{name} + own loss": options | {"own_loss_weight": 0.3}
                          for name, options in SAMPLINGS.items()}
METRICS = ["star-heldout barrier", "star-source barrier", "star loss"]
EPOCHS = {"MLP 3x32, digits": 150, "ResNet 8, digits": 60, "MLP 2x32, MNIST": 30}
SOURCES = 10
HELDOUTS = 5


def star_rows(make, data, recipe, epochs, states, estimator, seed):
    "One star: its loss, and its barriers to held-out solutions and to sources."
    options = ESTIMATORS[estimator]
    sources, heldouts = states[:SOURCES], states[SOURCES:]
    model = initialise(make, 1000 + seed)
    spec = infer_spec(model, data.train.x[:2])
    recipe = recipe.replace(epochs=epochs // 2 if "own_loss_weight" in options else epochs)
    star = train_star(model, sources, data, recipe, spec=spec, seed=1000 + seed, **options)

    def row(other, metric, value):
        return dict(model_a=f"star-{seed}", model_b=other, metric=metric, value=value)

    def barrier(other, init):
        found = match_weights(spec, star.state, other, init=init)
        matched = permute(spec, found.permutation, other)
        return loss_barrier(path_losses(model, star.state, matched, data))

    rows = [row(None, "star loss", evaluate(model, star.state, data.train)[0])]
    rows += [row(f"heldout-{n}", "star-heldout barrier", barrier(heldout, None))
             for n, heldout in enumerate(heldouts)]
    rows += [row(f"source-{n}", "star-source barrier", barrier(sources[n], star.permutations[n]))
             for n in range(HELDOUTS)]
    return rows


def measure(label, make, data, recipe, epochs, stars, jobs):
    "Tidy rows for every estimator on one kind of network."
    model = make()
    states = train_population(make, data, recipe, range(SOURCES + HELDOUTS), jobs)
    states = [refresh_batchnorm(model, state, data) for state in states]
    kinds = [(estimator, seed) for estimator in ESTIMATORS for seed in range(stars)]
    tasks = [(make, data, recipe, epochs, states, estimator, seed) for estimator, seed in kinds]
    found = run_jobs(star_rows, tasks, jobs, f"{label}: stars")
    return [dict(network=label, estimator=estimator, **row)
            for (estimator, _), rows in zip(kinds, found) for row in rows]


def summary(frame):
    "Means with 95 % intervals over models."
    rows = []
    keys = ["network", "metric", "estimator"]
    for key, part in frame.groupby(keys, sort=False):
        low, high = bootstrap_mean(part)
        values = dict(mean=part.value.mean(), low=low, high=high, n=len(part))
        rows.append(dict(zip(keys, key)) | values)
    return pd.DataFrame(rows)


def markdown(table):
    "The summary as text: a row for each network and estimator, a column for each metric."
    texts = [f"{row['mean']:.4f} [{row.low:.4f}, {row.high:.4f}]" for _, row in table.iterrows()]
    wide = table.assign(text=texts).pivot_table(
        index=["network", "estimator"], columns="metric", values="text", aggfunc="first",
        sort=False)
    return wide.reset_index().to_markdown(index=False)


def draw_metric(axis, own):
    "Means and intervals of one metric on one kind of network."
    errors = [own["mean"] - own.low, own.high - own["mean"]]
    axis.errorbar(own["mean"], own.estimator, xerr=errors, fmt="o", color="0.2", markersize=3,
                  capsize=2)


def draw(table, path):
    "The summary as a picture: a row for each network, a column for each metric."
    networks = table.network.unique()
    size = (8, 0.6 + 2.4 * len(networks))
    figure, axes = plt.subplots(len(networks), len(METRICS), figsize=size, sharey=True,
                                squeeze=False, layout="constrained")
    for row, network in zip(axes, networks):
        for axis, metric in zip(row, METRICS):
            draw_metric(axis, table[(table.network == network) & (table.metric == metric)])
            axis.set(xlabel=f"{metric} (nats)", xlim=(0, None))
        row[0].set_title(network)
        row[0].invert_yaxis()
    figure.savefig(path, dpi=150)


def write(frame, table, text):
    "Write the rows, the text and the picture."
    rows = frame.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    write_atomic(OUT / "estimators.csv", rows)
    write_atomic(OUT / "estimators.md",
                 "# Estimators of the star objective at equal cost\n\n"
                 f"{SOURCES} sources, {HELDOUTS} held-outs, five stars of each estimator; an "
                 "estimator with the star's own loss (weight 0.3) makes two passes a step and "
                 "gets half of the epochs. Training loss in nats: means with 95 % intervals over "
                 f"models.\n\n{text}\n\n![the same as a picture](estimators.png)\n")
    draw(table, OUT / "estimators.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true",
                        help="two stars of few epochs, and nothing is written")
    parser.add_argument("--mnist", metavar="ROOT", help="torchvision's folder of MNIST: there too")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for label, make, data, recipe in trained_networks(options.mnist):
        if label not in EPOCHS: continue
        epochs = 4 if options.quick else EPOCHS[label]
        stars = 2 if options.quick else 5
        rows += measure(label, make, data, recipe, epochs, stars, options.jobs)
    frame = pd.DataFrame(rows)
    table = summary(frame)
    text = markdown(table)
    print(text)
    if not options.quick: write(frame, table, text)


if __name__ == "__main__": main()
