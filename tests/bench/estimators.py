"""`make bench`: estimators of the star objective at equal cost: where t is drawn, in how many parts a batch, with the star's own loss or not.

    python tests/bench/estimators.py [--quick] [--mnist ROOT] [--jobs N]

An estimator with the star's own loss makes two passes a step, and gets half of the epochs. Writes reports/bench/estimators.csv, .md and .png.
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
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.jobs import run_jobs
from starlight_nb.matching import match_weights
from starlight_nb.models import initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.star import train_star
from starlight_nb.statistics import bootstrap_mean
from starlight_nb.training import train_population

OUT = Path(__file__).parents[2] / "reports/bench"
SAMPLINGS = {"uniform": {}, "uniform, 4 draws": {"segments_per_batch": 4}, "beta": {"t_sampling": "beta"}, "adaptive": {"t_sampling": "adaptive"},
             "constant 0.5": {"t_sampling": 0.5}}
ESTIMATORS = {f"{name}{suffix}": options | own for suffix, own in (("", {}), (" + own loss", {"own_loss_weight": 0.3})) for name, options in SAMPLINGS.items()}
SOURCES, HELDOUTS = 10, 5


def star_rows(make, data, recipe, epochs, states, estimator, seed):
    "One star: its loss, and its barriers to held-outs and to sources."
    options, sources, heldouts = ESTIMATORS[estimator], states[:SOURCES], states[SOURCES:]
    model = initialise(make, 1000 + seed)
    spec = infer_spec(model, data.train.x[:2])
    recipe = recipe.replace(epochs=epochs // 2 if "own_loss_weight" in options else epochs)
    star = train_star(model, sources, data, recipe, spec=spec, seed=1000 + seed, **options)
    rows = [dict(model_a=f"star-{seed}", model_b=None, metric="star loss", value=evaluate(model, star.state, data.train)[0])]
    for role, others, starts in (("heldout", heldouts, [None] * len(heldouts)), ("source", sources[:HELDOUTS], star.permutations)):
        for n, (other, init) in enumerate(zip(others, starts)):
            matched = permute(spec, match_weights(spec, star.state, other, init=init).permutation, other)
            rows.append(dict(model_a=f"star-{seed}", model_b=f"{role}-{n}", metric=f"star-{role} barrier",
                             value=loss_barrier(path_losses(model, star.state, matched, data))))
    return rows


def measure(label, make, data, recipe, epochs, stars, jobs):
    "Tidy rows for every estimator on one kind of network."
    model, states = make(), train_population(make, data, recipe, range(SOURCES + HELDOUTS), jobs)
    states = [refresh_batchnorm(model, state, data) for state in states]
    tasks = [(make, data, recipe, epochs, states, estimator, seed) for estimator in ESTIMATORS for seed in range(stars)]
    found = run_jobs(star_rows, tasks, jobs, f"{label}: stars")
    return [dict(network=label, estimator=task[5], **row) for task, rows in zip(tasks, found) for row in rows]


def summary(frame):
    "Means with 95 % intervals over models."
    rows = []
    for key, part in frame.groupby(["network", "metric", "estimator"], sort=False):
        low, high = bootstrap_mean(part)
        rows.append(dict(zip(("network", "metric", "estimator"), key), mean=part.value.mean(), low=low, high=high, n=len(part)))
    return pd.DataFrame(rows)


def draw(table, path):
    networks, metrics = table.network.unique(), ["star-heldout barrier", "star-source barrier", "star loss"]
    figure, axes = plt.subplots(len(networks), len(metrics), figsize=(8, 0.6 + 2.4 * len(networks)), sharey=True, squeeze=False, layout="constrained")
    for row, network in zip(axes, networks):
        for axis, metric in zip(row, metrics):
            own = table[(table.network == network) & (table.metric == metric)]
            axis.errorbar(own["mean"], own.estimator, xerr=[own["mean"] - own.low, own.high - own["mean"]], fmt="o", color="0.2", markersize=3, capsize=2)
            axis.set(xlabel=f"{metric} (nats)", title=network if metric == metrics[0] else "", xlim=(0, None))
        row[0].invert_yaxis()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two stars of few epochs, and nothing is written")
    parser.add_argument("--mnist", metavar="ROOT", help="torchvision's folder of MNIST: there too")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = {"MLP 3x32, digits": 150, "ResNet 8, digits": 60, "MLP 2x32, MNIST": 30}
    networks = [entry for entry in trained_networks(options.mnist) if entry[0] in chosen]
    frame = pd.DataFrame([row for label, make, data, recipe in networks for row in
                          measure(label, make, data, recipe, 4 if options.quick else chosen[label], 2 if options.quick else 5, options.jobs)])
    table = summary(frame)
    wide = table.assign(text=[f"{r['mean']:.4f} [{r.low:.4f}, {r.high:.4f}]" for _, r in table.iterrows()])
    text = wide.pivot_table(index=["network", "estimator"], columns="metric", values="text", aggfunc="first", sort=False).reset_index().to_markdown(index=False)
    print(text)
    if options.quick: return
    write_atomic(OUT / "estimators.csv", frame.to_csv(index=False, float_format="%.8g", lineterminator="\n"))
    write_atomic(OUT / "estimators.md", f"# Estimators of the star objective at equal cost\n\n{SOURCES} sources, {HELDOUTS} held-outs, five stars of each "
                "estimator; an estimator with the star's own loss (weight 0.3) makes two passes a step and gets half of the epochs. Training loss in nats: "
                f"means with 95 % intervals over models.\n\n{text}\n\n![the same as a picture](estimators.png)\n")
    draw(table, OUT / "estimators.png")


if __name__ == "__main__": main()
