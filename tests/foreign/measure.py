"""What inference gives for a model of another package: a row of the table in `reports/bench`."""

import re
import time
import warnings

from starlight_nb.permutation import infer_spec
from starlight_nb.permutation.spec import NATURAL

from . import build
from .check import check

REFUSED, WRONG, RIGHT, PARTLY, NOTHING = "refused", "wrong", "right", "partly", "nothing moves"
CLEAR = re.compile(r"(model|example_inputs)\b")  # a clear error begins with the argument's name


def unnatural(spec):
    "The reasons for which axes keep their order that are not an order of their own."
    return {reason for text in spec.pinned.values() for reason in text.split("; ")} - NATURAL


def inferred(model, example):
    "The spec, or the clear error that says why there is none; other errors are raised."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return infer_spec(model, example)
        except (ValueError, TypeError) as error:
            if not CLEAR.match(str(error)):
                raise
            return error


def outcome(spec, found):
    "Whether all of a network moves, or a part of it, and whether the check agrees."
    if found["first"] > found["tolerance"]:
        return WRONG
    if not spec.groups:
        return NOTHING
    return RIGHT if spec.coverage > 1 - 1e-9 else PARTLY


def measure(source, name):
    "The row of a model; raises where inference has an error that is not clear."
    model, example, other = build(source, name)
    row = {
        "source": source,
        "name": name,
        "groups": 0,
        "nested": 0,
        "coverage": 0.0,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    start = time.process_time()
    spec = inferred(model, example)
    row["seconds"] = round(time.process_time() - start, 2)
    if isinstance(spec, Exception):
        return row | {"outcome": REFUSED, "pinned": str(spec)}
    inputs = [part if isinstance(part, list) else [part] for part in (example, other)]
    nothing = {"first": 0, "others": {}, "tolerance": 0}
    found = check(lambda: build(source, name)[0], spec, sum(inputs, [])) if spec.groups else nothing
    return row | {
        "groups": len(spec.groups),
        "nested": len(spec.blocks),
        "coverage": round(float(spec.coverage), 6),
        "outcome": outcome(spec, found),
        "pinned": "; ".join(sorted(unnatural(spec))),
    }
