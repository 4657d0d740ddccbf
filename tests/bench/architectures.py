"""`make bench-studies`: what can be permuted in every classification architecture of torchvision, and
in models of other packages.

For each: its groups, the share of permutable axes, and the seconds of inference and proof.
`--foreign` makes the second part alone, and a name after it one file of `tests/foreign`.
"""
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from foreign import SOURCES, builders, is_installed
from foreign.measure import PARTLY, RIGHT, measure, unnatural
from test_architectures import TORCHVISION, torchvision_spec

from starlight_nb.runtime.files import write_atomic

OUT = Path(__file__).parents[2] / "reports/bench"
TABLE = OUT / "foreign.csv"


def row(name):
    "The table's row of one architecture."
    start = time.process_time()
    model, spec = torchvision_spec(name)
    seconds = time.process_time() - start
    parameters = sum(p.numel() for p in model.parameters())
    return {"architecture": name, "parameters (M)": round(parameters / 1e6, 1),
            "groups": len(spec.groups), "nested": len(spec.blocks),
            "permutable": f"{100 * spec.coverage:.2f} %", "seconds": round(seconds, 1),
            "what is not, and why": "; ".join(sorted(unnatural(spec)))}


def failed(source, name, outcome, why=""):
    "The row of a model that was not measured."
    return {"source": source, "name": name, "groups": 0, "nested": 0, "coverage": 0.0,
            "outcome": outcome, "pinned": why}


def foreign_row(source, name):
    "The row of a model of another package; an unclear error is a row, too."
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try: return measure(source, name)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"[:200]
        return failed(source, name, "error", why)


def foreign_rows(sources):
    "The rows of all models of these files, each measured in a process of its own."
    context = get_context("forkserver")
    context.set_forkserver_preload(["foreign.measure"])
    for source in sources:
        for name in builders(source):
            with ProcessPoolExecutor(1, context) as pool:
                try: found = pool.submit(foreign_row, source, name).result()
                except BrokenProcessPool: found = failed(source, name, "crash")
            print(found, flush=True)
            yield found


def updated(new):
    "The table of all models measured so far, with these rows in place of earlier ones."
    old = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["source"])
    kept = old[~old["source"].isin(new["source"].unique())]
    return pd.concat([kept, new], ignore_index=True)


def counts(table):
    "How many models of each package there are, and of how many all moves, and of how many a part."
    rows = []
    for source, own in table.groupby("source", sort=False):
        found = own["outcome"].value_counts()
        rows.append({"models of": SOURCES[source], "file": source, "models": len(own),
                     "all moves": found.get(RIGHT, 0), "a part": found.get(PARTLY, 0),
                     "others": len(own) - found.get(RIGHT, 0) - found.get(PARTLY, 0)})
    return pd.DataFrame(rows)


def readable(table):
    "The table for readers: all models but the idioms of which all moves."
    plain = (SOURCES[source] == "torch" for source in table["source"])
    shown = table[[not idiom or outcome != RIGHT
                   for idiom, outcome in zip(plain, table["outcome"], strict=True)]]
    shown = shown.sort_values("source", kind="stable")
    return pd.DataFrame({
        "file": shown["source"], "model": shown["name"], "groups": shown["groups"],
        "nested": shown["nested"], "permutable": [f"{100 * c:.2f} %" for c in shown["coverage"]],
        "seconds": shown["seconds"], "outcome": shown["outcome"],
        "what is not, and why": shown["pinned"].fillna("").str.slice(0, 400)})


def torchvision_part():
    "The first table as text."
    return ("# Torchvision's classifiers: what can be permuted\n\n"
            "Building, inference and proof, in seconds of processor time on one thread; "
            "smallest images that the architecture takes.\n\n"
            f"{pd.DataFrame([row(name) for name in TORCHVISION]).to_markdown(index=False)}\n")


def foreign_part(table):
    "The second table as text."
    return ("# Models of other packages\n\n"
            "Random weights, small configurations; `tests/foreign` builds them. A spec counts as right "
            "where another input and other weights give the same prediction after a random permutation. "
            "Seconds of inference and proof. Idioms of which all moves are only counted.\n\n"
            f"{counts(table).to_markdown(index=False)}\n\n{readable(table).to_markdown(index=False)}\n")


def main(words):
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.filterwarnings("ignore", category=UserWarning)
    path = OUT / "architectures.md"
    chosen = [word for word in words if word in SOURCES] or list(SOURCES)
    table = updated(pd.DataFrame(foreign_rows([s for s in chosen if is_installed(s)])))
    write_atomic(TABLE, table.to_csv(index=False))
    if "--foreign" in words: first = path.read_text().split("\n# Models of other packages")[0]
    else: first = torchvision_part()
    write_atomic(path, f"{first}\n{foreign_part(table)}")


if __name__ == "__main__": main(sys.argv[1:])
