"""`make bench-studies`: what can be permuted in every classification architecture of torchvision.

For each: its groups, the share of permutable axes, and the seconds of inference and proof.
"""
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_architectures import TORCHVISION, torchvision_spec

from starlight_nb.permutation.spec import NATURAL
from starlight_nb.runtime.files import write_atomic

OUT = Path(__file__).parents[2] / "reports/bench"


def row(name):
    "The table's row of one architecture."
    start = time.process_time()
    model, spec = torchvision_spec(name)
    seconds = time.process_time() - start
    parameters = sum(p.numel() for p in model.parameters())
    why = {reason for text in spec.pinned.values() for reason in text.split("; ")} - NATURAL
    return {"architecture": name, "parameters (M)": round(parameters / 1e6, 1),
            "groups": len(spec.groups), "nested": len(spec.blocks),
            "permutable": f"{100 * spec.coverage:.2f} %", "seconds": round(seconds, 1),
            "what is not, and why": "; ".join(sorted(why))}


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    text = pd.DataFrame([row(name) for name in TORCHVISION]).to_markdown(index=False)
    print(text)
    write_atomic(OUT / "architectures.md",
                 "# Torchvision's classifiers: what can be permuted\n\n"
                 "Building, inference and proof, in seconds of processor time on one thread; "
                 f"smallest images that the architecture takes.\n\n{text}\n")


if __name__ == "__main__": main()
