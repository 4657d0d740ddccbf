"""`make bench-studies`: does it change a star's barriers that only drawn sources are re-matched?

    python tests/bench/star_barriers.py [--quick]

Writes reports/bench/star_barriers.csv and star_barriers.md.
"""
import argparse
import statistics

import pandas as pd
from scipy import stats
from stars import DIGITS, EPOCHS, OUT, recipe_of, solutions

from starlight_nb.barriers import loss_barrier, path_losses
from starlight_nb.matching import match_weights
from starlight_nb.models import initialise
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.runtime.files import write_atomic
from starlight_nb.star import REMATCHES, train_star

PAIRS = 8  # stars of each kind, with the same seeds
NETWORKS = {"MLP 5x32": ("mlp", dict(depth=5, width=32), 0.05),
            "ResNet 8": ("resnet", dict(width=8, blocks=(1, 1)), 0.03)}


def barriers_of(star, model, spec, others, init):
    "The mean barrier of a star to other networks."
    found = []
    for other, own in zip(others, init):
        matched = permute(spec, match_weights(spec, star.state, other, init=own).permutation, other)
        found.append(loss_barrier(path_losses(model, star.state, matched, DIGITS)))
    return statistics.mean(found)


def differences(name, quick):
    "Rows: for each seed a star of each kind, and its mean barriers to held-outs and to sources."
    architecture, options, lr = NETWORKS[name]
    make, states = solutions(architecture, options, lr, 30, 2 if quick else 40)
    model = initialise(make, 999)
    sources, heldouts = states[:25], states[25:]
    spec, found = infer_spec(model, DIGITS.train.x[:2]), []
    for seed in range(2 if quick else PAIRS):
        for rematch in REMATCHES:
            star = train_star(initialise(make, 1000 + seed), sources, DIGITS,
                              recipe_of(lr, 3 if quick else EPOCHS), spec=spec, seed=seed,
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, and nothing is written")
    options, _ = parser.parse_known_args()  # `make` passes the same options to all
    frame = pd.DataFrame([row for name in NETWORKS for row in differences(name, options.quick)])
    table = compared(frame)
    print(table)
    if not options.quick: write(frame, table)


def write(frame, table):
    "Write the rows and the text."
    rows = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomic(OUT / "star_barriers.csv", rows)
    write_atomic(OUT / "star_barriers.md", f"""# Barriers of stars, by which sources are re-matched

Stars of 25 sources on digits, in pairs with the same initialisation, batches and draws. In one, only the drawn sources are re-matched; in the other, all of them. Training-loss barriers in nats; the difference is drawn minus all, with its 95 % interval (Student's t).

{table.to_markdown(index=False, floatfmt=".4f")}
""")


if __name__ == "__main__": main()
