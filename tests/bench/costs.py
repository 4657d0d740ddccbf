"""`make bench-studies`: what the paper's settings cost on this machine, measured.

It also counts the operations of the whole paper. It takes some minutes on a CPU.

    python tests/bench/costs.py [PROFILE ...]

The files of CIFAR-10 must be in STARLIGHT_DATA or .starlight/data.
"""
import dataclasses
import sys
from pathlib import Path

from starlight_nb.data import available_datasets
from starlight_nb.paper.catalogue import profile_names
from starlight_nb.paper.costs import PEAKS, in_operations, measure_cost, setting_costs
from starlight_nb.paper.budget import Planner, experiment_minutes
from starlight_nb.paper.experiment import resolve_experiment
from starlight_nb.paper.profiles import load_profile
from starlight_nb.runtime.files import write_atomic
from starlight_nb.runtime.jobs import single_thread
from starlight_nb.runtime.settings import Settings, device_name

OUT = Path(__file__).parents[2] / "reports/bench"
RATE = PEAKS["H200"] / 4


def planner_of(profile, environment):
    "The whole profile, from an empty store."
    content = load_profile(profile)
    environment = dataclasses.replace(environment, store=environment.store / "none")
    experiments = {name: resolve_experiment(name, content, environment)
                   for name in content.experiments}
    settings = {study.setting.name: study.setting
                for experiment in experiments.values() for study in experiment.studies}
    with single_thread():
        costs = [measure_cost(setting, environment) for setting in settings.values()]
    return Planner(experiments, costs)


def markdown(table): return table.to_markdown(index=False, disable_numparse=True)


def goal_text(cost):
    "Operations of 55 regular ResNet-18 of 200 epochs and a star of 50 sources, and of a pair."
    work = in_operations(cost)
    goal, pair = 56 * work.regular(), work.path()
    return (f"\n55 regular ResNet-18 of 200 epochs and the star of 50 sources: "
            f"{goal / 1e18:.3g} EFLOP, {goal / RATE / 3600:.2g} hours at that rate. "
            f"A pair (11 points, training and test data): {pair / 1e15:.2g} PFLOP, "
            f"{pair / RATE:.2g} seconds.\n")


def section(profile, environment):
    "The report's section of one profile."
    planner = planner_of(profile, environment)
    costs = list(planner.costs.values())
    in_work = Planner(planner.experiments, list(map(in_operations, costs)))
    work = in_work.expected()
    total = sum(work.values())
    petaflop = [f"{own / 1e15:.3g}" for own in work.values()]
    experiments = experiment_minutes(planner).assign(PFLOP=petaflop)
    text = (f"## {profile}\n\n{markdown(setting_costs(costs))}\n\n{markdown(experiments)}\n\n"
            f"All of it: {total / 1e18:.3g} EFLOP. At {RATE / 1e12:.0f} TFLOP/s, a quarter of an "
            f"H200's dense bfloat16 peak, that would be {total / RATE / 3600:.3g} hours; "
            "no such rate was measured.\n")
    return text + goal_text(planner.costs["resnet18"]) if profile == "cifar10" else text


def main():
    wanted = sys.argv[1:] or [name for name in profile_names() if name.startswith("cifar10")]
    environment = Settings.from_environment(jobs=1)  # the report says what one job costs
    if "cifar10" not in available_datasets(environment.data):
        sys.exit("costs: the files of cifar10 are not in STARLIGHT_DATA or .starlight/data")
    text = "\n".join(section(profile, environment) for profile in wanted)
    print(text)
    write_atomic(OUT / "costs.md", f"""# What it costs

Measured on {device_name(environment.device)}, one job on one thread: some steps of a regular \
model and of a star, one matching, a look at as many images as take a second. Minutes are for
one job at a time and an empty store. The formula is in \
[50f_paper.costs](../../nbs/50f_paper.costs.ipynb); a step is counted as three forward passes and \
a multiply-add as two operations.

{text}""")


if __name__ == "__main__": main()
