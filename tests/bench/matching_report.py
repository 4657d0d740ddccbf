"""The tables and the picture of `matching.py`, from its tidy rows."""
import platform
from importlib.metadata import version

import matplotlib
import pandas as pd
import torch

matplotlib.use("agg")
import matplotlib.pyplot as plt

from starlight_nb.statistics import bootstrap_mean


def wide(frame, index, columns="metric"):
    return frame.pivot_table(index=index, columns=columns, values="value", sort=False)


def markdown(table):
    table = table.reset_index().astype(object)
    filled = table.where(table.notna(), None)
    return filled.to_markdown(index=False, floatfmt=".4g", missingval="")


def speed(frame):
    "Each method's seconds and cosines, then what the first matching of a network takes."
    tried = frame[frame.method != "infer_spec"]
    table = wide(tried, ["network", "method"])
    others = table.xs("rebasin", level="method")
    rebasin = others.seconds.reindex(table.index, level="network")
    table.insert(0, "rebasin / this", rebasin / table.seconds)
    table["runs"] = tried.groupby(["network", "method"], sort=False).runs.first()
    found = frame[frame.method == "infer_spec"].set_index("network").value
    whole = first_matching(found, table.xs("forward", level="method").seconds, others)
    failed = [f"- {row.method} {row.note} in {row.network}: no time to compare with"
              for row in tried[tried.value.isna()].itertuples()]
    columns = ["seconds", "rebasin / this", "cos_w", "cos", "groups", "sweeps", "runs"]
    return ["Two networks at random. Seconds of the matching alone (rebasin's include permuting "
            "the network, ours do not); `rebasin / this` says how many times longer rebasin "
            "takes, whatever it finds to permute. `cos_w` is the cosine over permuted tensors of "
            "two dimensions or more, `cos` over all parameters.",
            markdown(table[columns]), "\n".join(failed),
            "The first time a network is met, its symmetries have to be found too, and ours are "
            "proven on it. Seconds:",
            markdown(whole)]


def first_matching(found, forward, others):
    "Seconds to find the symmetries of a network and to match it once, beside rebasin."
    whole = pd.DataFrame({"infer_spec": found, "forward": forward, "together": found + forward})
    names = dict(tracing="rebasin's tracing", seconds="rebasin")
    whole = whole.join(others[["tracing", "seconds"]]).rename(columns=names)
    whole["rebasin together"] = whole["rebasin's tracing"] + whole["rebasin"]
    whole["rebasin / ours"] = whole["rebasin together"] / whole["together"]
    return whole


def agreement(frame):
    table = wide(frame, "network", "method").map("{:.5f}".format)
    return ["`cos_w` in the sweep order that four other implementations of the same descent use "
            "(git-re-basin-pytorch, PLeaS, C2M3, STE-MM; their value to five digits).",
            table.reset_index().to_markdown(index=False, disable_numparse=True)]


def difference(pairs, method):
    "Mean over pairs of a method's barrier minus rebasin's, and its interval over models."
    pairs = pairs.assign(value=pairs[method] - pairs["rebasin"]).reset_index()
    low, high = bootstrap_mean(pairs)
    return f"{pairs.value.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def barriers(frame):
    "Barriers of each method, their differences from rebasin's, and what the matching took."
    index = ["network", "model_a", "model_b"]
    pairs = wide(frame[frame.metric == "barrier"], index, "method")
    middle = wide(frame[frame.metric == "midpoint"], index, "method")
    by_network = pairs.groupby(level="network", sort=False)
    table = by_network.agg(lambda part: f"{part.mean():.4f} ± {part.std():.4f}")
    for method in ("forward", "random order"):
        table[f"{method} − rebasin"] = [difference(pairs.loc[[network]], method)
                                        for network in table.index]
    measured = frame[frame.metric.isin(["seconds", "cos_w", "groups"])]
    took = wide(measured, ["network", "method"])
    count = frame.model_b.nunique() + 1
    half_way = (pairs - middle < 1e-9).to_numpy().sum()
    return [f"{count} trained networks of each kind and every pair of them. Statistics of "
            "normalisations are measured afresh at the ends too, because rebasin leaves the "
            "running ones in their old order. Largest rise of the training loss above the line "
            "between the ends, at eleven points, in nats: mean ± standard deviation over pairs; "
            "paired differences with 95 % intervals over models.",
            markdown(table), f"The largest rise is half-way in {half_way} of {pairs.size} paths.",
            "Means over pairs of what the matching left and took:", markdown(took)]


def growth(frame):
    "The seconds of each size, and how many times longer rebasin takes."
    size = frame.section.iloc[0]
    table = wide(frame[frame.metric == "seconds"], "size", "method").rename_axis(index=size)
    table["rebasin / forward"] = table["rebasin"] / table["forward"]
    return [f"Seconds for a pair of MLPs at random with 784 inputs, by their {size}.",
            markdown(table)]


def networks(frame):
    table = wide(frame, ["network", "size"], "method").rename_axis(index=["network", "networks"])
    table["match_many, each"] = table["match_many"] / table.index.get_level_values("networks")
    table["rebasin / match_many"] = table["rebasin"] / table["match_many"]
    return ["Seconds to match so many networks, each of three epochs, to one: by `match_many`, "
            "and by as many calls of each of the others.", markdown(table)]


COLOURS = {"match_many": "C0", "forward": "C0", "random order": "C9", "match_weights": "C9",
           "plain PyTorch": "C1", "rebasin": "C3"}


def panel(axis, frame, label):
    "Seconds against size, a line for each method; both axes logarithmic."
    seconds = frame[frame.metric == "seconds"]
    for method, own in seconds.groupby("method", sort=False):
        axis.plot(own["size"], own.value, "o-", markersize=4, color=COLOURS[method], label=method)
    axis.set(xscale="log", yscale="log", xlabel=label)
    axis.set_xticks(sizes := sorted(set(seconds["size"])), map(str, sizes))
    axis.minorticks_off()
    axis.legend(fontsize=7)


def draw(frame, path):
    "Cost against the number of networks, the width and the depth, beside the others."
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    many = frame[(frame.section == "networks") & frame.network.str.startswith("MLP")]
    panel(axes[0], many, "networks matched to one (MLP 3x32)")
    panel(axes[1], frame[frame.section == "width"], "width (three hidden layers)")
    panel(axes[2], frame[frame.section == "depth"], "depth (layers of 128)")
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=150)


SECTIONS = dict(speed=speed, agreement=agreement, networks=networks, width=growth, depth=growth)


def evidence():
    "What the numbers were measured with."
    packages = ("torch", "numpy", "scipy", "rebasin")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    processor = f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    return (f"Python {platform.python_version()}, {versions}; {processor}, "
            f"{torch.get_num_threads()} thread. Seconds are processor time, medians over `runs`. "
            "Pairs at random have the seeds 0 and 1, random orders the seed 0 (rebasin's: 0, 1, "
            "2), or the number of the pair of trained networks.")


def report(frame):
    "The whole text."
    parts = ["# Matching by weights, beside others",
             "Ours are `match_weights` (forward, in random order, from what was found), "
             "`match_many` and `Matcher`. `plain PyTorch` is the algorithm as it was published, "
             "with every similarity computed anew in double precision and SciPy's assignment. "
             "rebasin is the package of that name.", evidence(),
             "![cost by number of networks, width and depth](matching.png)"]
    for name, part in frame.groupby("section", sort=False):
        parts += [f"## {name.capitalize()}", *SECTIONS[name](part)]
    return "\n\n".join(filter(None, parts)) + "\n"
