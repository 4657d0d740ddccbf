"""`make bench`: matching by weights beside the package `rebasin` and a plain port, on one thread.

Compare within one run only.

    python tests/bench/matching.py [--quick] [--only SECTION ...] [--out FOLDER]

The whole run writes reports/bench/; a quick one, or one of some sections, only prints, unless
`--out` says where to write. Seconds are the process's own, so that others on the machine count
less. The plain port is `match_naively`, the algorithm as it is published, with PyTorch and SciPy.
"""
import argparse
import copy
import io
import math
import statistics
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from time import process_time

import pandas as pd
import torch
from matching_networks import MLP, NETWORKS, PEERS, random_pair
from matching_report import draw, report
from rebasin import PermutationCoordinateDescent

from starlight_nb.data import load
from starlight_nb.matching import Matcher, match_many, match_weights
from starlight_nb.matching.coordinate_descent import inner_product, match_naively
from starlight_nb.matching.weights import matched_names
from starlight_nb.models import build
from starlight_nb.permutation import infer_spec, permute
from starlight_nb.runtime.files import write_atomic
from starlight_nb.training import Recipe, state_of, train_population

torch.set_num_threads(1)
OUT = Path(__file__).parents[2] / "reports/bench"
RUNS = 3     # whose median counts
SLOW = 2.0   # seconds of the first run from which no other follows
COLUMNS = ["section", "network", "size", "method", "metric", "value", "runs", "note"]


def rows(section, network, method, values, **columns):
    "One tidy row a metric."
    return [dict(section=section, network=network, method=method, metric=metric, value=value,
                 **columns)
            for metric, value in values.items()]


def timed(function):
    "Seconds, and the result."
    start = process_time()
    result = function()
    return process_time() - start, result


def only_timed(function): return dict(seconds=timed(function)[0])


def repeated(run):
    "What the last run found, with the medians of times and cosines, and the number of runs."
    found = [run()]
    if found[0]["seconds"] < SLOW: found += [run() for _ in range(RUNS - 1)]
    medians = {key: statistics.median(one[key] for one in found)
               for key in ("seconds", "tracing", "cos_w", "cos") if key in found[0]}
    return found[-1] | medians, len(found)


def ours(spec, b, match):
    "The permuted state, and what it took."
    seconds, matching = timed(match)
    values = dict(seconds=seconds, groups=len(matching.permutation), sweeps=matching.sweeps)
    return permute(spec, matching.permutation, b), values


def by_weights(spec, a, b, **options):
    "As `ours`, by `match_weights`."
    return ours(spec, b, lambda: match_weights(spec, a, b, **options))


def plain(spec, a, b):
    "As `ours`, by the published algorithm; `RuntimeError` where groups are nested."
    if spec.blocks: raise RuntimeError("knows no nested groups, which are")
    seconds, (permutation, steps) = timed(lambda: match_naively(spec, a, b))
    sweeps = -(-len(steps) // len(spec.groups))
    values = dict(seconds=seconds, groups=len(permutation), sweeps=sweeps)
    return permute(spec, permutation, b), values


def rebasin(model_a, model_b, x, seed=0):
    "The permuted state, and what it took; `RuntimeError` where nothing is found to permute."
    torch.manual_seed(seed)
    permuted = copy.deepcopy(model_b)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        tracing, search = timed(lambda: PermutationCoordinateDescent(model_a, permuted, x))
        seconds, _ = timed(search.rebasin)
    groups = len(search.pinit.model_graph.permutation_to_info)
    if not groups: raise RuntimeError("finds nothing to permute")
    return state_of(permuted), dict(seconds=seconds, tracing=tracing, groups=groups)


def scored(spec, a, found):
    """What it took, and two cosines: `cos_w` and `cos`.

    The first is over permuted tensors of two dimensions or more, the second over all parameters."""
    b, values = found
    names = matched_names(spec, a)
    weights = [name for name in names if name in spec.axes and a[name].ndim > 1]
    def cosine(names):
        norms = inner_product(a, a, names) * inner_product(b, b, names)
        return inner_product(a, b, names) / math.sqrt(norms)
    return values | dict(cos_w=cosine(weights), cos=cosine(names))


def moved(spec, a, seed):
    "The state with each tensor moved by 1 % of its norm, anywhere."
    torch.manual_seed(seed)
    steps = {name: torch.randn_like(a[name]) for name in matched_names(spec, a)}
    return a | {name: a[name] + 0.01 * a[name].norm() * step / step.norm()
                for name, step in steps.items()}


def contenders(spec, model_a, model_b, x):
    "One run of each method, which returns its measurements."
    a, b = state_of(model_a), state_of(model_b)
    matcher, seeds = Matcher(spec, [b]), iter(range(RUNS))
    near = iter([moved(spec, a, seed) for seed in range(RUNS)])
    found = matcher.match(a)[0].permutation

    def alone(**options): return scored(spec, a, by_weights(spec, a, b, **options))
    def by_matcher(matcher, target):
        return scored(spec, target, ours(spec, b, lambda: matcher.match(target)[0]))

    return {"forward": alone,
            "random order": lambda: alone(order="random"),
            "from what was found": lambda: alone(init=found),
            "Matcher, nothing changed": lambda: by_matcher(matcher, a),
            "Matcher, A moved by 1 %": lambda: by_matcher(matcher, next(near)),
            "plain PyTorch": lambda: scored(spec, a, plain(spec, a, b)),
            "rebasin": lambda: scored(spec, a, rebasin(model_a, model_b, x, next(seeds)))}


def inferred(model, x):
    "One run of `infer_spec`: its seconds, and the spec."
    seconds, spec = timed(lambda: infer_spec(model, x))
    return dict(seconds=seconds, spec=spec)


def speed(options):
    "Seconds and objective of each method on pairs at random."
    found = []
    for network in ("MLP 3x512", "ViT 4x128") if options.quick else NETWORKS:
        model_a, model_b, x = random_pair(*NETWORKS[network])
        values, runs = repeated(partial(inferred, model_a, x))
        spec = values.pop("spec")
        found += rows("speed", network, "infer_spec", values, runs=runs)
        for method, run in contenders(spec, model_a, model_b, x).items():
            note = ""
            try: values, runs = repeated(run)
            except RuntimeError as error:
                values, runs, note = dict(seconds=math.nan), 1, str(error)
            found += rows("speed", network, method, values, runs=runs, note=note)
    return found


def agreement(options):
    "Other implementations' order of the same descent: the same objective, to five digits."
    found = []
    for network, value in PEERS.items():
        model_a, model_b, x = random_pair(*NETWORKS[network])
        spec, a, b = infer_spec(model_a, x), state_of(model_a), state_of(model_b)
        cos_w = scored(spec, a, by_weights(spec, a, b, order="random"))["cos_w"]
        assert round(cos_w, 5) == value, f"{network}: {cos_w:.5f}, not {value}"
        found += rows("agreement", network, "random order", dict(cos_w=cos_w), runs=1)
        found += rows("agreement", network, "peers", dict(cos_w=value), note="to five digits")
    return found


def growth(section, sizes, make_of):
    "Seconds of pairs of MLPs of several sizes."
    found = []
    for size in sizes:
        model_a, model_b, x = random_pair(make_of(size), (1, 28, 28))
        runs_of = contenders(infer_spec(model_a, x), model_a, model_b, x)
        for method in ("forward", "random order", "plain PyTorch", "rebasin"):
            values, runs = repeated(runs_of[method])
            found += rows(section, "MLP", method, values, runs=runs, size=size)
    return found


def width(options):
    "How seconds grow with the width of an MLP of three hidden layers."
    sizes = (64, 128) if options.quick else (64, 128, 256, 512, 1024)
    return growth("width", sizes, lambda size: partial(MLP, width=size))


def depth(options):
    "How seconds grow with the depth of an MLP of 128 units a layer."
    sizes = (1, 2) if options.quick else (1, 2, 4, 8, 16)
    return growth("depth", sizes, lambda size: partial(MLP, width=128, depth=size))


def one_by_one(spec, a, others): return [match_weights(spec, a, b) for b in others]
def plain_one_by_one(spec, a, others): return [match_naively(spec, a, b) for b in others]


def by_rebasin(make, x, spec, a, others):
    "Match so many networks with rebasin, one after another."
    model = make()
    model.load_state_dict(a)
    for b in others:
        other = make()
        other.load_state_dict(b)
        rebasin(model.eval(), other.eval(), x)


def networks(options):
    "Seconds for many small networks at once, and one after another."
    found, data = [], load("digits")
    counts = (1, 2, 5) if options.quick else (1, 2, 5, 10, 20, 50)
    recipe = Recipe(epochs=3, batch_size=100, lr=0.03)
    for network, name in (("MLP 3x32, digits", "mlp"), ("ResNet 8, digits", "resnet")):
        make, x = partial(build, name), data.train.x[:2]
        a, *others = train_population(make, data, recipe, range(1 + counts[-1]))
        spec = infer_spec(make(), x)
        methods = {"match_many": match_many, "match_weights": one_by_one,
                   "plain PyTorch": plain_one_by_one, "rebasin": partial(by_rebasin, make, x)}
        for count in counts:
            for method, match in methods.items():
                run = partial(only_timed, partial(match, spec, a, others[:count]))
                values, runs = repeated(run)
                found += rows("networks", network, method, values, runs=runs, size=count)
    return found


SECTIONS = {section.__name__: section
            for section in (speed, agreement, networks, width, depth)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller networks")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="only these sections")
    parser.add_argument("--out", type=Path, help="where matching.csv and matching.md go")
    options, _ = parser.parse_known_args()  # `make` passes the same options to all
    chosen = [section for name, section in SECTIONS.items()
              if name in (options.only or SECTIONS)]
    found = [row for section in chosen for row in section(options)]
    frame = pd.DataFrame(found, columns=COLUMNS).astype({"size": "Int64", "runs": "Int64"})
    text = report(frame)
    print(text)
    out = options.out
    if not (out or options.quick or options.only): out = OUT
    if not out: return
    table = frame.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    write_atomic(out / "matching.csv", table)
    write_atomic(out / "matching.md", text)
    draw(frame, out / "matching.png")


if __name__ == "__main__": main()
