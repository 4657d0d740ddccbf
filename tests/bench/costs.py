"""`make bench`: what the paper's settings cost on this machine, measured, and how many operations the whole paper is. Takes some minutes on a CPU.

    python tests/bench/costs.py [PROFILE ...]      needs the files of CIFAR-10 in STARLIGHT_DATA or .starlight/data
"""
import sys
from pathlib import Path

from starlight_nb.paper.catalogue import profile_names
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.settings import store_folder
from starlight_nb.data import available_datasets
from starlight_nb.runtime.settings import check_device, device_name
from starlight_nb.runtime.jobs import single_thread
from starlight_nb.paper.costs import PEAKS, in_operations, measure_cost, setting_costs
from starlight_nb.paper.plans import Planner, estimate
from starlight_nb.paper.runner import notebook_parameters
from starlight_nb.runtime.store import Store
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.profiles import load_profile

RATE = PEAKS["H200"] / 4


def planner_of(profile):
    "The whole profile, from an empty store."
    content = load_profile(profile)
    experiments = {name: Experiment(name, profile, **dict.fromkeys(key for key in notebook_parameters(name) if key != "profile")) for name in content.experiments}
    used = {study.setting.name: study.setting for experiment in experiments.values() for study in experiment.studies}
    with single_thread():
        return Planner(experiments, [measure_cost(setting) for setting in used.values()], Store(store_folder() / "none"))


def goal(costs):
    "Operations of 55 regular ResNet-18 of 200 epochs and a star of 50 sources."
    return 56 * in_operations(costs["resnet18"]).regular


def section(profile):
    planner = planner_of(profile)
    work = Planner(planner.experiments, list(map(in_operations, planner.costs.values())), planner.store).expected()
    rows, total = estimate(planner).assign(PFLOP=[f"{own / 1e15:.3g}" for own in work.values()]), sum(work.values())
    text = (f"## {profile}\n\n{setting_costs(list(planner.costs.values())).to_markdown(index=False, disable_numparse=True)}\n\n{rows.to_markdown(index=False, disable_numparse=True)}\n\n"
            f"All of it: {total / 1e18:.3g} EFLOP. At {RATE / 1e12:.0f} TFLOP/s, a quarter of an H200's dense bfloat16 peak, that would be {total / RATE / 3600:.3g} hours; "
            "no such rate was measured.\n")
    if profile == "cifar10":
        text += (f"\n55 regular ResNet-18 of 200 epochs and the star of 50 sources: {goal(planner.costs) / 1e18:.3g} EFLOP, "
                 f"{goal(planner.costs) / RATE / 3600:.2g} hours at that rate. A pair (11 points, training and test data): "
                 f"{in_operations(planner.costs['resnet18']).path() / 1e15:.2g} PFLOP, "
                 f"{in_operations(planner.costs['resnet18']).path() / RATE:.2g} seconds.\n")
    return text


wanted = sys.argv[1:] or [name for name in profile_names() if name.startswith("cifar10")]
if "cifar10" not in available_datasets():
    sys.exit("costs: the files of cifar10 are not in STARLIGHT_DATA or .starlight/data")
text = "\n".join(map(section, wanted))
print(text)
write_atomic(Path(__file__).parents[2] / "reports/bench/costs.md", f"""# What it costs

Measured on {device_name(check_device())}, one job on one thread: some steps of a regular model and of a star, one matching, a look at as many images as take a second. Minutes are for
one job at a time and an empty store. The formula is in [22e_planning](../../nbs/22e_planning.ipynb); a step is counted as three forward passes and a multiply-add as two operations.

{text}""")
