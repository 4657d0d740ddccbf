"""`make bench`: what a star costs beside plain training, by its sources and by its network.

    python tests/bench/stars.py [--quick]

Writes reports/bench/stars.csv, stars.md and stars.png. Seconds are the process's own, on one
thread. Where the files of CIFAR-10 are in STARLIGHT_DATA or .starlight/data, the star of the
profile `cifar10-tiny` is measured too.
"""
import argparse
from functools import partial
from pathlib import Path
from time import process_time

import matplotlib
import pandas as pd
import torch

matplotlib.use("agg")
import matplotlib.pyplot as plt

from starlight_nb.data import available_datasets, load
from starlight_nb.models import build, initialise
from starlight_nb.paper.profiles import load_profile
from starlight_nb.permutation import infer_spec
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.settings import Settings
from starlight_nb.star import REMATCHES, train_star
from starlight_nb.training import Recipe, train, train_population

torch.set_num_threads(1)
OUT = Path(__file__).parents[2] / "reports/bench"
DIGITS = load("digits")
EPOCHS = 150       # of a star, of 14 batches each
MLP = dict(depth=5, width=128)
SWEEPS = {  # what varies: values, and the network and number of sources of each
    "sources": ((1, 10, 25, 50), lambda n: ("mlp", MLP, n)),
    "width": ((32, 64, 128, 256), lambda n: ("mlp", MLP | dict(width=n), 25)),
    "depth": ((1, 3, 5, 8), lambda n: ("mlp", MLP | dict(depth=n), 25)),
    "sources of a ResNet": ((10, 25), lambda n: ("resnet", dict(width=8, blocks=(1, 1)), n))}


def recipe_of(lr, epochs): return Recipe(epochs=epochs, batch_size=100, lr=lr, schedule="one-cycle")


def solutions(architecture, options, lr, count, epochs):
    "A builder, and trained states of its networks."
    make = partial(build, architecture, **options)
    return make, train_population(make, DIGITS, recipe_of(lr, epochs), range(count), jobs=2)


def seconds(function):
    start = process_time()
    function()
    return process_time() - start


def compared(make, data, states, plain, recipe, rematches):
    "Rows: the processor time of stars, and what it is beside plain training of as many epochs."
    model = initialise(make, 999)
    spec = infer_spec(model, data.train.x[:2])
    before = seconds(lambda: train(model, data, plain, 0))
    for rematch in rematches:
        took = seconds(lambda: train_star(model, states, data, recipe, spec=spec, rematch=rematch))
        yield dict(rematch=rematch, plain=before, star=took, ratio=took / before)


def swept(name, quick):
    "Rows of one sweep; the sources of its largest number are trained once a network."
    values, setting = SWEEPS[name]
    known = {}
    for value in values[:2] if quick else values:
        architecture, options, count = setting(value)
        lr, key = 0.05 if architecture == "mlp" else 0.03, str(options)
        if key not in known:
            most = max(setting(own)[2] for own in values)
            known[key] = solutions(architecture, options, lr, most, 2 if quick else 15)
        make, states = known[key]
        recipe = recipe_of(lr, 3 if quick else EPOCHS)
        rematches = REMATCHES if name == "sources" else ("drawn",)
        for row in compared(make, DIGITS, states[:count], recipe, recipe, rematches):
            yield dict(varied=name, value=value, **row)


def cifar10_tiny():
    "The row of the ResNet of the profile `cifar10-tiny`; none without the data."
    root = Settings.from_environment().data
    if "cifar10" not in available_datasets(root): return
    setting = load_profile("cifar10-tiny").settings["resnet"]
    make, data = partial(build, setting.architecture, **setting.model), load(setting.dataset, root)
    states = train_population(make, data, setting.recipe, range(setting.sources), jobs=2)
    recipe = setting.star_recipe
    plain = setting.recipe.replace(epochs=recipe.epochs)
    for row in compared(make, data, states, plain, recipe, ("drawn",)):
        yield dict(varied="cifar10-tiny", value=setting.sources, **row)


def draw(frame, path):
    "The cost of a star against its sources, its width and its depth."
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    labels = {"sources": "sources (MLP 5x128)", "width": "width (5 layers, 25 sources)",
              "depth": "depth (128 units, 25 sources)"}
    for axis, (name, label) in zip(axes, labels.items()):
        for rematch, own in frame[frame.varied == name].groupby("rematch", sort=False):
            style = dict(drawn="o-", all="s--")[rematch]
            axis.plot(own.value, own.ratio, style, markersize=4, label=f"{rematch} re-matched")
        axis.axhline(1, color="0.6", linewidth=1)
        axis.set(xlabel=label, ylim=(0, None), xticks=SWEEPS[name][0])
    axes[0].set_ylabel("processor time (plain training = 1)")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def write(frame):
    "Write the rows, the text and the picture."
    rows = frame.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    write_atomic(OUT / "stars.csv", rows)
    write_atomic(OUT / "stars.md", f"""# What a star costs

Processor time of a star, in seconds, beside plain training of the same network for as many epochs. One thread, one run of each. On digits that is {EPOCHS} epochs of 14 batches, so that an epoch draws at most 14 sources; `drawn` re-matches these, `all` re-matches every source. `sources`, `width` and `depth` are those of a multilayer perceptron of 5 layers of 128 units with 25 sources, where they do not vary. Whether re-matching only drawn sources changes the barriers is in [star_barriers.md](star_barriers.md).

![the cost of a star by sources, width and depth](stars.png)

{frame.to_markdown(index=False, floatfmt=".3g")}
""")
    draw(frame, OUT / "stars.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, and nothing is written")
    options, _ = parser.parse_known_args()  # `make` passes the same options to all
    rows = []
    for part in (*(swept(name, options.quick) for name in SWEEPS), cifar10_tiny()):
        for row in part:
            rows.append(row)
            print(row, flush=True)
    if not options.quick: write(pd.DataFrame(rows))


if __name__ == "__main__": main()
