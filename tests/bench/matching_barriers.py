"""`make bench-studies`: barriers between trained networks that several methods have matched.

    python tests/bench/matching_barriers.py [--quick] [--mnist ROOT]

Writes reports/bench/matching_barriers.csv and .md.
"""
import argparse
from itertools import combinations

import pandas as pd
from matching import OUT, by_weights, rebasin, rows, scored
from matching_networks import trained_networks
from matching_report import barriers as text_of
from matching_report import evidence

from starlight_nb.barriers import loss_barrier, path_losses
from starlight_nb.evaluation import refresh_batchnorm
from starlight_nb.permutation import infer_spec
from starlight_nb.runtime.files import write_atomic
from starlight_nb.training import train_population


def aligned(spec, make, data, a, b, seed):
    "For each method the permuted state, and what it took."
    model_a, model_b = make().eval(), make().eval()
    model_a.load_state_dict(a)
    model_b.load_state_dict(b)
    return {"unmatched": (b, {}), "forward": by_weights(spec, a, b),
            "random order": by_weights(spec, a, b, order="random", seed=seed),
            "rebasin": rebasin(model_a, model_b, data.train.x[:2], seed)}


def barrier_values(model, spec, data, a, found):
    "The barrier from A to a permuted state, its rise half-way, and what the matching took."
    state, values = found
    # rebasin leaves the running statistics in their old order
    state = refresh_batchnorm(model, state, data)
    curve = path_losses(model, a, state, data)
    loss = curve.loss["train"]
    midpoint = loss[5] - (loss[0] + loss[-1]) / 2
    values = scored(spec, a, (state, values))
    return values | dict(barrier=loss_barrier(curve), midpoint=midpoint)


def measure(network, make, data, recipe, count):
    "Tidy rows of all pairs of so many networks."
    model, found = make(), []
    states = train_population(make, data, recipe, range(count))
    states = [refresh_batchnorm(model, state, data) for state in states]
    spec = infer_spec(model, data.train.x[:2])
    for seed, (i, j) in enumerate(combinations(range(count), 2)):
        methods = aligned(spec, make, data, states[i], states[j], seed)
        for method, permuted in methods.items():
            values = barrier_values(model, spec, data, states[i], permuted)
            found += rows("barriers", network, method, values, model_a=f"model-{i}",
                          model_b=f"model-{j}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs; nothing is written")
    parser.add_argument("--mnist", metavar="ROOT", help="torchvision's folder of MNIST: there too")
    options, _ = parser.parse_known_args()  # `make` passes the same options to all
    found = [row for network in trained_networks(options.mnist)
             for row in measure(*network, 3 if options.quick else 6)]
    frame = pd.DataFrame(found)
    text = "\n\n".join(["# Barriers by the method of matching", evidence(), *text_of(frame)])
    print(text)
    if options.quick: return
    table = frame.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    write_atomic(OUT / "matching_barriers.csv", table)
    write_atomic(OUT / "matching_barriers.md", text + "\n")


if __name__ == "__main__": main()
