"""`make bench`: every classification architecture of torchvision: groups, share of permutable axes, seconds of inference and proof."""
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_architectures import TORCHVISION, torchvision_spec

from starlight_nb.runtime.files import write_atomic
from starlight_nb.permutation.spec import NATURAL

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=UserWarning)


def row(name):
    start = time.process_time()
    model, spec = torchvision_spec(name)
    seconds = time.process_time() - start
    why = {reason for text in spec.pinned.values() for reason in text.split("; ")} - NATURAL
    return {"architecture": name, "parameters (M)": round(sum(p.numel() for p in model.parameters()) / 1e6, 1), "groups": len(spec.groups),
            "nested": len(spec.blocks), "permutable": f"{100 * spec.coverage:.2f} %", "seconds": round(seconds, 1),
            "what is not, and why": "; ".join(sorted(why))}


table = pd.DataFrame([row(name) for name in TORCHVISION])
text = table.to_markdown(index=False)
print(text)
write_atomic(Path(__file__).parents[2] / "reports/bench/architectures.md",
            "# Torchvision's classifiers: what can be permuted\n\nBuilding, inference and proof, in seconds of processor time on one thread; smallest images that the "
            f"architecture takes.\n\n{text}\n")
