"""`make bench-studies`: seconds and memory of `infer_spec`, beside the trace alone and beside rebasin.

Each network runs in a process of its own, on one thread; seconds are of the processor.
"""
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

OUT = Path(__file__).parents[2] / "reports/bench"
NETWORKS = ["ResNet-18 (32 pixels)", "ResNet-50", "ViT-B/16", "BERT-base", "GPT-2", "S3D", "HaloNet-26"]


def build(name):
    "A network with random weights and its example inputs."
    import torch
    import torchvision
    tokens = {"input_ids": torch.randint(0, 1000, (2, 64))}
    image = torch.randn(2, 3, 224, 224)
    if name.startswith("ResNet-18"):
        from starlight_nb.models import build as own
        return own("resnet18"), torch.randn(2, 3, 32, 32)
    if name == "ResNet-50":
        return torchvision.models.resnet50(), image
    if name == "ViT-B/16":
        return torchvision.models.vit_b_16(), image
    if name == "S3D":
        return torchvision.models.video.s3d(), torch.randn(2, 3, 16, 224, 224)
    if name == "HaloNet-26":
        import timm
        return timm.create_model("halonet26t"), torch.randn(2, 3, 256, 256)
    import transformers
    if name == "BERT-base":
        return transformers.BertForSequenceClassification(transformers.BertConfig()), tokens
    return transformers.GPT2LMHeadModel(transformers.GPT2Config()), tokens


def seconds_of(function):
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def measure(name):
    "One line of JSON: a network's seconds, and the memory that inference added to what it takes."
    import torch
    torch.set_num_threads(1)
    from starlight_nb.permutation import infer_spec
    model, x = build(name)
    model.eval()
    first, spec = seconds_of(lambda: infer_spec(model, x))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    second, _ = seconds_of(lambda: infer_spec(model, x))
    row = {"network": name, "groups": len(spec.groups), "coverage": spec.coverage, "first": first,
           "warm": second, "peak": peak}
    try:
        from starlight_nb.permutation.examples import clean_copy, split_examples
        from starlight_nb.permutation.graph import record_graph
    except ImportError:
        pass
    else:
        example = split_examples(x)[0]
        clean = clean_copy(model, example)
        row["trace"], _ = seconds_of(lambda: record_graph(clean, example))
    print(json.dumps(row))


def first_call(library):
    "Seconds of a first call that aligns two ResNet-18, imports of the library included, of torch not."
    import copy

    import torch
    import torchvision
    torch.set_num_threads(1)
    a, b, x = torchvision.models.resnet18(), torchvision.models.resnet18(), torch.randn(2, 3, 224, 224)
    a.eval(), b.eval()

    def ours():
        from starlight_nb.matching import align
        return align(a, b, x)

    def rebasin():
        from rebasin import PermutationCoordinateDescent
        PermutationCoordinateDescent(a, copy.deepcopy(b), x).rebasin()

    seconds, _ = seconds_of({"starlight_nb": ours, "rebasin": rebasin}[library])
    print(json.dumps({"library": library, "seconds": seconds}))


def run(*arguments):
    "The last line that a process of this script prints, read as JSON."
    found = subprocess.run([sys.executable, "-W", "ignore", __file__, *arguments], check=True,
                           capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def main():
    table = pd.DataFrame([run("network", name) for name in NETWORKS])
    calls = pd.DataFrame([run("first", library) for library in ("starlight_nb", "rebasin")])
    text = (
        "# What inference of symmetries costs\n\nSeconds of the processor on one thread, in a process "
        "for each network: the first call of `infer_spec` in a process, a second one, and the recording "
        "of the graph alone. Memory is the process's peak after the first call, in GB.\n\n"
        f"{table.round(2).to_markdown(index=False)}\n\nA first call that aligns two ResNet-18 at 224 "
        f"pixels, import of torch aside:\n\n{calls.round(2).to_markdown(index=False)}\n")
    print(text)
    from starlight_nb.runtime.files import write_atomic
    write_atomic(OUT / "inference.md", text)


if __name__ == "__main__":
    modes = {"network": measure, "first": first_call}
    modes[sys.argv[1]](sys.argv[2]) if len(sys.argv) > 1 else main()
