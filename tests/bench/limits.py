"""`make bench`: how near one cold matching comes to what the processor can do.

    python tests/bench/limits.py [--quick]

Counts the operations of all products of a matching, and times them, the assignments, and plain
products of matrices of the same shapes. Writes reports/bench/limits.csv and limits.md.
"""
import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from time import process_time

import pandas as pd
import torch
import torchvision
from matching_networks import MLP, random_pair, vgg
from torch import nn

from starlight_nb.matching import assignment, match_weights, tensor_descent
from starlight_nb.models import build
from starlight_nb.permutation import infer_spec
from starlight_nb.runtime.files import write_atomic
from starlight_nb.training import state_of

torch.set_num_threads(1)
OUT = Path(__file__).parents[2] / "reports/bench"


class Transformer(nn.Module):
    "Twelve layers of 768 units and 12 heads: the size of BERT-base or GPT-2."
    def __init__(self, words, causal):
        super().__init__()
        self.words, self.places = nn.Embedding(words, 768), nn.Embedding(64, 768)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True,
                                           norm_first=causal, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.top, self.causal = nn.Linear(768, words if causal else 2), causal

    def forward(self, x):
        length = x.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1) if self.causal else None
        x = self.words(x) + self.places.weight[:length]
        x = self.layers(x, mask=mask, is_causal=self.causal)
        return self.top(x if self.causal else x.mean(1))


def image(side): return partial(torch.randn, 2, 3, side, side)
def text(words): return partial(torch.randint, words, (2, 8))


NETWORKS = {  # how to build it, and an input
    "MLP 3x512": (partial(MLP, width=512), partial(torch.randn, 2, 1, 28, 28)),
    "VGG11": (vgg, image(32)),
    "ResNet-18": (partial(build, "resnet18"), image(32)),
    "ResNet-50": (torchvision.models.resnet50, image(64)),
    "ViT-B/16": (torchvision.models.vit_b_16, image(224)),
    "BERT-base": (partial(Transformer, 30_522, False), text(30_522)),
    "GPT-2": (partial(Transformer, 50_257, True), text(50_257))}


class Clock:
    "Seconds in a function, and what was noted of its calls."
    def __init__(self, module, name, note=lambda *arguments: None):
        self.module, self.name, self.note = module, name, note
        self.seconds, self.noted = 0.0, Counter()

    def __enter__(self):
        self.function = getattr(self.module, self.name)
        setattr(self.module, self.name, self.call)
        return self

    def __exit__(self, *error): setattr(self.module, self.name, self.function)

    def call(self, *arguments, **options):
        start = process_time()
        result = self.function(*arguments, **options)
        self.seconds += process_time() - start
        self.noted[self.note(*arguments)] += 1
        return result


def shape_of(total, a, b): return len(a), a.shape[1], len(b)


def seconds_of(function):
    start = process_time()
    function()
    return process_time() - start


def plain_seconds(shapes):
    "What plain products of matrices of these shapes (rows, numbers, columns) take."
    total = 0.0
    for (rows, numbers, columns), count in shapes.items():
        a, b = torch.randn(rows, numbers), torch.randn(numbers, columns)
        out = torch.empty(rows, columns)
        total += count * min(seconds_of(lambda: torch.mm(a, b, out=out)) for _ in range(3))
    return total


def row(name):
    "The table's row of one network."
    make, example = NETWORKS[name]
    x = example()
    model_a, model_b, _ = random_pair(make, ())
    started = process_time()
    spec = infer_spec(model_a, x)
    inference = process_time() - started
    a, b = state_of(model_a), state_of(model_b)
    with Clock(tensor_descent, "add_similarities", shape_of) as products, \
            Clock(assignment, "lapjvr") as assignments:
        start = process_time()
        found = match_weights(spec, a, b)
        seconds = process_time() - start
    operations = sum(2 * r * n * c * count for (r, n, c), count in products.noted.items())
    plain = operations / plain_seconds(products.noted)
    return {"network": name, "parameters (M)": sum(p.numel() for p in model_a.parameters()) / 1e6,
            "groups": len(spec.groups), "sweeps": found.sweeps, "infer_spec, s": inference,
            "matching, s": seconds, "products": products.seconds / seconds,
            "assignments": assignments.seconds / seconds, "GFLOP": operations / 1e9,
            "GFLOP/s in products": operations / products.seconds / 1e9,
            "GFLOP/s of plain products": plain / 1e9,
            "of the plain rate": operations / products.seconds / plain}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two networks, and nothing is written")
    options, _ = parser.parse_known_args()  # `make` passes the same options to all
    rows = []
    for name in ("MLP 3x512", "ResNet-18") if options.quick else NETWORKS:
        rows.append(row(name))
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    if options.quick: return
    write_atomic(OUT / "limits.csv", frame.to_csv(index=False, float_format="%.4g",
                                                  lineterminator="\n"))
    write_atomic(OUT / "limits.md", f"""# A cold matching and the processor's limit

Two networks at random, matched once, on one thread; seconds of processor time. `products` and \
`assignments` are shares of the matching. The rest is norms and inner products in double \
precision, and moving units. The rate of plain products is that of `torch.mm` on contiguous \
matrices of the same shapes. BERT-base and GPT-2 are PyTorch's transformer layers in their sizes.

{frame.to_markdown(index=False, floatfmt=".3g")}
""")


if __name__ == "__main__": main()
