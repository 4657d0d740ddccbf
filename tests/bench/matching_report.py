"""The tables of `matching.py`, in Markdown, from its tidy rows."""
import platform
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch

from starlight_nb.study import bootstrap_mean


def wide(frame, index, columns="metric", values="value"):
    return frame.pivot_table(index=index, columns=columns, values=values, sort=False)


def markdown(table):
    return table.reset_index().to_markdown(index=False, floatfmt=".4g", missingval="")


def speed(frame):
    tried = frame[frame.method != "infer_spec"]
    table = wide(tried, ["network", "method"])
    others, first = table.xs("rebasin", level="method"), table.xs("forward", level="method").seconds
    table.insert(0, "rebasin / this", others.seconds.reindex(table.index, level="network") / table.seconds)
    table["runs"] = tried.groupby(["network", "method"], sort=False).runs.first()
    found = frame[frame.method == "infer_spec"].set_index("network").value
    whole = pd.DataFrame({"infer_spec": found, "forward": first, "both": found + first, "rebasin's tracing": others.tracing,
                          "rebasin": others.seconds, "both of rebasin": others.tracing + others.seconds}).reindex(found.index)
    whole["ratio"] = whole["both of rebasin"] / whole["both"]
    failed = [f"- rebasin {row.note} in {row.network}: no time to compare with" for row in tried[tried.value.isna()].itertuples()]
    columns = ["seconds", "rebasin / this", "cos_w", "cos", "groups", "sweeps", "runs"]
    return ["Two networks at random. Seconds of the matching alone; `rebasin / this` says how many times longer rebasin takes. "
            "`cos_w` is the cosine over permuted tensors of two dimensions or more, `cos` over all parameters.",
            markdown(table[columns]), "\n".join(failed),
            "The first time a network is met, its symmetries have to be found too, and ours proves them on it. Seconds:", markdown(whole)]


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
    tables, metrics = [], {"barrier": "the largest of eleven points", "midpoint": "half-way"}
    for metric, words in metrics.items():
        pairs = wide(frame[frame.metric == metric], ["network", "model_a", "model_b"], "method")
        table = pairs.groupby(level="network", sort=False).agg(lambda part: f"{part.mean():.4f} ± {part.std():.4f}")
        for method in ("forward", "random order"):
            table[f"{method} − rebasin"] = [difference(pairs.loc[[network]], method) for network in table.index]
        tables += [f"Rise of the training loss above the line between the ends, {words}, in nats: mean ± standard deviation over pairs; "
                   "paired differences with 95 % intervals over models.", markdown(table)]
    models = frame.groupby("network", sort=False)[["model_a", "model_b"]].agg("nunique").max(axis=1) + 1
    return [f"Trained networks, {', '.join(map(str, sorted(set(models))))} of each and every pair of them. Statistics of normalisations are "
            "measured afresh at the ends too, because rebasin leaves the running ones in their old order.", *tables,
            "Means over pairs of what matching took and left:", markdown(wide(frame[frame.metric.isin(["seconds", "cos_w", "groups"])],
                                                                          ["network", "method"]))]


def growth(table):
    "The power of the width that the seconds grow with, from the least squares line through the logarithms."
    return {method: np.polyfit(np.log(table.index), np.log(table[method]), 1)[0] for method in table}


def width(frame):
    table = wide(frame[frame.metric == "seconds"], "size", "method").rename_axis(index="width")
    powers = ", ".join(f"{power:.2f} ({method})" for method, power in growth(table).items())
    table["rebasin / forward"] = table["rebasin"] / table["forward"]
    return ["Seconds for an MLP of three hidden layers and 784 inputs, at random.", markdown(table),
            f"Seconds grow with the width to the power {powers}."]


def networks(frame):
    table = wide(frame, ["network", "size"], "method").rename_axis(index=["network", "networks"])
    table["match_many, each"] = table["match_many"] / table.index.get_level_values("networks")
    table["match_weights / match_many"] = table["match_weights"] / table["match_many"]
    return ["Seconds to match so many networks of three epochs to one: by `match_many`, and by so many calls of `match_weights`.",
            markdown(table)]


SECTIONS = dict(speed=speed, agreement=agreement, barriers=barriers, width=width, networks=networks)


def evidence(frame):
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy", "rebasin"))
    return (f"Python {platform.python_version()}, {versions}; {platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), "
            f"{torch.get_num_threads()} thread; seconds of the process, medians over `runs`. Pairs at random have the seeds 0 and 1, "
            "random orders the seed 0, or the number of the pair of trained networks.")


def report(frame):
    "The whole text."
    parts = ["# Matching by weights, beside rebasin", evidence(frame)]
    for name, part in frame.groupby("section", sort=False):
        parts += [f"## {name.capitalize()}", *SECTIONS[name](part)]
    return "\n\n".join(filter(None, parts)) + "\n"
