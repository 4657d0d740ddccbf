"""What computed a report, and what was asked for: the kernel is this Python, the evidence says so,
and one report holds the results of one profile."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT, finish, starlight

from starlight_nb.paper import cli, doctor as doctor_module
from starlight_nb.paper.evidence import check_report, claim_report, profile_identity
from starlight_nb.paper.profiles import load_profile, profile_digest
from starlight_nb.paper.runner import check_request
from starlight_nb.runtime.origin import origin

COMMITTED = ("agnews", "cifar10-tiny", "digits", "mnist")
ASK = """import json
from starlight_nb.paper.execution import kernel_origin
from starlight_nb.runtime.origin import origin
print(json.dumps([kernel_origin(), origin()]))
"""


def write_kernel(folder, text, name="python3"):
    "A kernelspec below `folder`, which is to be JUPYTER_PATH."
    path = folder / "kernels" / name / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return {"JUPYTER_PATH": str(folder)}


def kernel_of(*program, name="x"):
    command = [*program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return json.dumps(dict(argv=command, display_name=name, language="python"))


def ask_kernel(folder, environment, place=None):
    "What a kernel and the process that starts it, a script in `place`, say in `folder / 'work'`."
    script = (place or folder) / "ask.py"
    script.write_text(ASK)
    result = subprocess.run([sys.executable, str(script)], cwd=folder / "work", text=True,
                            capture_output=True, env=os.environ | environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def another_environment(folder):
    "A virtual environment of the same Python, which has neither ipykernel nor starlight_nb."
    venv.create(folder / "other", with_pip=False, symlinks=True)
    return write_kernel(folder, kernel_of(str(folder / "other/bin/python")))


def another_version(folder):
    "A starlight_nb of another version, in the folder in which the command is started."
    package = folder / "work/starlight_nb"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.0.1'\n")
    return {}


KERNELS = {
    "another environment": another_environment,
    "a program that ends at once": lambda folder: write_kernel(folder, kernel_of("/bin/false")),
    "no JSON": lambda folder: write_kernel(folder, "{"),
    "no command": lambda folder: write_kernel(folder, '{"argv": [], "display_name": "x"}'),
    "variables": lambda folder: write_kernel(folder, json.dumps(dict(
        json.loads(kernel_of(sys.executable)), env={"PYTHONPATH": "/nowhere"}))),
    "another name": lambda folder: write_kernel(folder, kernel_of("/bin/false"), "mine"),
    "another provisioner": lambda folder: {"JUPYTER_DEFAULT_PROVISIONER_NAME": "nowhere"},
    "another version in the current folder": another_version,
}


# two others lie in wait in `test_a_report_says_what_computed_it`
QUICK = ("no JSON",)


@pytest.mark.parametrize("kind", [
    kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KERNELS])
def test_a_kernel_is_this_python_whatever_kernelspecs_there_are(kind, tmp_path):
    (tmp_path / "work").mkdir()
    of_kernel, here = ask_kernel(tmp_path, KERNELS[kind](tmp_path))
    assert of_kernel == here == origin()
    assert {p.name for p in (tmp_path / "work").iterdir()} <= {"starlight_nb"}, "nothing is left"


@pytest.mark.parametrize("how", ["PYTHONPATH", "beside the script"])
def test_a_kernel_imports_the_starlight_nb_of_the_runner(how, tmp_path):
    "Not one from the current folder, and also where a name in the path looks like a variable."
    packages = tmp_path / "$HOME/site-packages"
    shutil.copytree(ROOT / "starlight_nb", packages / "starlight_nb")
    (packages / "nbs").symlink_to(ROOT / "nbs")
    with open(packages / "starlight_nb/star.py", "a") as file:
        file.write("# changed\n")
    (tmp_path / "work").mkdir()
    another_version(tmp_path)
    environment = {"PYTHONPATH": str(packages)} if how == "PYTHONPATH" else {}
    place = packages if how == "beside the script" else tmp_path
    of_kernel, here = ask_kernel(tmp_path, environment, place)
    assert of_kernel == here and here["code"] != origin()["code"]


def test_jupyter_is_not_asked_for_a_kernelspec(short_notebooks, tmp_path, monkeypatch):
    "Not even where there is none at all."
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(manager, name):
        raise NoSuchKernel(name)
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    short_notebooks()
    assert reproduce(tmp_path, "smoke", "--out", str(tmp_path / "report")) == 0
    assert doctor_module.lab_kernel()[0] == "note"


def test_a_report_says_what_computed_it(small_profile, tmp_path):
    "Also where another version and another environment lie in wait."
    (tmp_path / "work").mkdir()
    another_version(tmp_path)
    process = starlight("reproduce", "--profile", small_profile(), folder=tmp_path / "work",
                        **another_environment(tmp_path))
    status, out, error = finish(process)
    assert status == 0, out + error
    report = tmp_path / "work/report"
    evidence = json.loads((report / "evidence.json").read_text())
    assert {key: evidence[key] for key in origin()} == origin()
    assert evidence["made_with"] == {} and not (report / "made_with").exists()
    assert evidence["profile_digest"] == profile_digest(load_profile(small_profile()))


@pytest.fixture
def other_torch(tmp_path, monkeypatch):
    "A startup file of IPython, after which kernels find another torch."
    distribution = tmp_path / "packages/torch-9.9.9.dist-info"
    distribution.mkdir(parents=True)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    startup = tmp_path / "ipython/profile_default/startup/first.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(f"import sys; sys.path.insert(0, {str(distribution.parent)!r})\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def test_results_of_other_versions_do_not_enter_a_report(
    other_torch, short_notebooks, tmp_path, capsys
):
    short_notebooks()
    report = tmp_path / "report"
    assert reproduce(tmp_path, "smoke", "--out", str(report)) == 1
    here = origin()["versions"]["torch"]
    assert f"its kernel has torch 9.9.9 instead of {here};" in capsys.readouterr().err
    assert not (report / "notebooks").exists() and not (report / "README.md").exists()
    assert not (report / "evidence.json").exists()
    assert doctor_module._check_kernel() == f"it has torch 9.9.9 instead of {here}"


def test_a_notebook_that_does_not_say_what_computed_it_is_refused(
    short_notebooks, tmp_path, capsys
):
    "As a kernel with an older version would not."
    short_notebooks(fig1_source_count="print('fine')")
    assert reproduce(tmp_path, "smoke", "--out", str(tmp_path / "report")) == 1
    assert "it does not say with which versions it was computed" in capsys.readouterr().err
    assert not (tmp_path / "report/notebooks").exists()


def test_what_other_versions_computed_earlier_stays_recorded(short_notebooks, tmp_path):
    "By an earlier run, and by hand in a notebook that JupyterLab has opened."
    short_notebooks()
    report = tmp_path / "report"
    assert reproduce(tmp_path, "smoke", "--out", str(report)) == 0
    evidence = json.loads((report / "evidence.json").read_text())
    assert evidence["made_with"] == {}
    older = {"torch": "1.0", "starlight_nb": "0.0.1"}
    evidence["versions"] |= older
    (report / "evidence.json").write_text(json.dumps(evidence))
    by_hand = origin() | {"code": "changed"}
    (report / "made_with").mkdir()
    (report / "made_with/fig4_bma.json").write_text(json.dumps(by_hand))
    assert reproduce(tmp_path, "smoke", "--out", str(report), only="fig2") == 0
    evidence = json.loads((report / "evidence.json").read_text())
    assert evidence["versions"] == origin()["versions"]
    assert {name: own["versions"] for name, own in evidence["made_with"].items()} == {
        "fig1_source_count": origin()["versions"] | older, "fig4_bma": origin()["versions"]}
    assert evidence["made_with"]["fig4_bma"]["code"] == "changed"
    assert reproduce(tmp_path, "smoke", "--out", str(report)) == 0
    evidence = json.loads((report / "evidence.json").read_text())
    assert list(evidence["made_with"]) == ["fig4_bma"], "fig1 has been made again"


def test_what_a_killed_run_made_with_another_version_is_recorded(short_notebooks, tmp_path):
    "It has times of no notebook, and only files of those that ended."
    short_notebooks()
    report = tmp_path / "report"
    assert reproduce(tmp_path, "smoke", "--out", str(report), only="fig1,fig2") == 0
    evidence = json.loads((report / "evidence.json").read_text())
    evidence["versions"]["torch"] = "1.0"
    evidence["wall_seconds"] = {}
    (report / "evidence.json").write_text(json.dumps(evidence))
    assert reproduce(tmp_path, "smoke", "--out", str(report), only="fig2") == 0
    made_with = json.loads((report / "evidence.json").read_text())["made_with"]
    assert {name: own["versions"]["torch"] for name, own in made_with.items()} == {
        "fig1_source_count": "1.0"}


def test_the_doctor_notes_what_jupyterlab_starts(tmp_path, monkeypatch):
    variables = another_environment(tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", variables["JUPYTER_PATH"])
    status, text = doctor_module.lab_kernel()
    assert status == "note" and f"opens notebooks with {tmp_path}/other/bin/python" in text
    path = tmp_path / "kernels/python3/kernel.json"
    path.write_text(kernel_of(sys.executable))
    assert doctor_module.lab_kernel() == ("ok", "it opens notebooks with this Python")
    path.write_text("{")
    status, text = doctor_module.lab_kernel()
    assert status == "note" and "nothing that can be read (JSONDecodeError)" in text


# One report, one profile


def reproduce(folder, profile, *words, only="fig1"):
    "Run the command on short notebooks; the exit status."
    return cli.main(["reproduce", "--profile", str(profile), "--only", only,
                     "--store", str(folder / "store"), *words])


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    "The folder of a report that the first project makes, and the others copy."
    return tmp_path_factory.mktemp("project") / "reports"


@pytest.fixture
def project(made_once, tmp_path, short_notebooks, monkeypatch):
    "A folder with the report of a committed profile, in which commands are run."
    short_notebooks()
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("STARLIGHT_OUT", raising=False)
    if made_once.exists(): shutil.copytree(made_once, folder / "reports")
    else:
        assert reproduce(tmp_path, "smoke") == 0
        shutil.copytree(folder / "reports", made_once)
    return folder


def copied(project, *changes, name="smoke"):
    "A copy of the smoke profile that keeps its name, with some texts replaced."
    text = (ROOT / "nbs/experiments/profiles/smoke.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (project / "my").mkdir(exist_ok=True)
    path = project / f"my/{name}.toml"
    path.write_text(text)
    return path


CHANGES = {
    "width": ("width = 16", "width = 17"),
    "recipe": ("lr = 0.05", "lr = 0.06"),
    "counts": ("sources = 4", "sources = 5"),
    "label": ('label = "MLP 3x16"', 'label = "MLP"'),
    "parameters": ("points = 11", "points = 5"),
    "title": ("title = ", 'title = "Mine"  # '),
}
SAME = {
    "comment": ("[settings.mlp]", "# a comment\n[settings.mlp]"),
    "order": ('architecture = "mlp"\n', ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_counts_is_in_the_digest(change, tmp_path):
    changed = load_profile(str(copied(tmp_path, CHANGES[change])))
    assert profile_digest(changed) != profile_digest(load_profile("smoke"))


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_count_is_not_in_the_digest(change, tmp_path):
    changes = [SAME[change]]
    if change == "order":
        changes.append(("[settings.mlp]\n", '[settings.mlp]\narchitecture = "mlp"\n'))
    changed = load_profile(str(copied(tmp_path, *changes)))
    assert profile_digest(changed) == profile_digest(load_profile("smoke"))


def test_a_new_field_of_a_later_version_changes_no_digest():
    "A report of this version can be continued by the next one."
    profile = load_profile("smoke")
    later = dataclasses.make_dataclass(
        "Later", [("new_field", int, dataclasses.field(default=0))],
        bases=(type(profile.settings["mlp"]),), frozen=True)
    settings = {name: later(**vars(own)) for name, own in profile.settings.items()}
    assert profile_digest(dataclasses.replace(profile, settings=settings)) == (
        profile_digest(profile))


@pytest.mark.parametrize("change", [*CHANGES, "nothing"])
def test_a_profile_by_path_has_a_folder_of_its_own(change, project, tmp_path, capsys):
    before = contents(project / "reports/smoke")
    path = copied(project, *[CHANGES[change]] if change in CHANGES else [])
    assert reproduce(tmp_path, path.relative_to(project)) == 0
    digest = profile_digest(load_profile(str(path)))
    assert f"report: reports/smoke-{digest[:8]}/index.html" in capsys.readouterr().out
    assert {p.name for p in (project / "reports").iterdir()} == {"smoke", f"smoke-{digest[:8]}"}
    assert contents(project / "reports/smoke") == before


def test_a_shipped_profile_by_path_is_the_one_of_its_name(project, tmp_path):
    assert reproduce(tmp_path, ROOT / "nbs/experiments/profiles/smoke.toml", only="fig2") == 0
    assert [p.name for p in (project / "reports").iterdir()] == ["smoke"]


@pytest.mark.parametrize("how", ["out", "STARLIGHT_OUT", "another name", "-p", "profile"])
def test_another_profile_does_not_enter_a_report(how, project, tmp_path, capsys, monkeypatch):
    report = project / "reports/smoke"
    words, argument, profile = ["--out", str(report)], "out", copied(project, CHANGES["width"])
    other = f"profile 'smoke' (digest {profile_digest(load_profile(str(profile)))[:8]})"
    if how == "STARLIGHT_OUT":
        monkeypatch.setenv("STARLIGHT_OUT", str(report))
        words = []
    if how == "another name":
        profile, other = copied(project, CHANGES["width"], name="mine"), "profile 'mine' (digest "
    if how == "-p":
        profile, other = "smoke", "profile 'smoke' with points = 5 (digest "
        words += ["-p", "points=5"]
    if how == "profile":  # the file of a committed profile has been changed
        profile, words, argument, other = "smoke", [], "profile", "profile 'smoke' (digest "
        evidence = json.loads((report / "evidence.json").read_text())
        evidence["profile_digest"] = "0" * 64
        (report / "evidence.json").write_text(json.dumps(evidence))
    before = contents(report)
    capsys.readouterr()
    assert reproduce(tmp_path, profile, *words, only="fig2") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"starlight: {argument}: {report} holds results of profile 'smoke'")
    assert f"this run is for {other}" in error and error.count("\n") == 1
    assert "choose another folder with out (--out DIR)" in error
    assert contents(report) == before


def test_the_same_profile_may_enter_under_another_name(project, tmp_path):
    report = project / "reports/smoke"
    path = copied(project, SAME["comment"], name="mine")
    assert reproduce(tmp_path, path, "--out", str(report), only="fig2") == 0
    assert (report / "notebooks/fig2_width_depth.ipynb").exists()


def test_parameters_have_a_folder_of_their_own(project, tmp_path):
    "The same for all experiments that have the parameter; none where the profile has the value."
    before = contents(project / "reports/smoke")
    for only in ("fig1", "fig3"):
        assert reproduce(tmp_path, "smoke", "-p", "points=5", only=only) == 0
    own, = (p for p in (project / "reports").iterdir() if p.name != "smoke")
    assert {p.stem for p in (own / "notebooks").iterdir()} == {"fig1_source_count", "fig3_paths"}
    evidence = json.loads((own / "evidence.json").read_text())
    assert evidence["parameters"] == {"points": 5}
    assert own.name == f"smoke-{evidence['profile_digest'][:8]}"
    assert (own / "README.md").read_text().splitlines()[0].endswith(", points = 5")
    assert contents(project / "reports/smoke") == before
    assert reproduce(tmp_path, "smoke", "-p", "points=11", only="fig3") == 0
    assert (project / "reports/smoke/notebooks/fig3_paths.ipynb").exists()


def test_a_report_belongs_to_the_profile_of_its_first_result(short_notebooks, tmp_path, capsys):
    "Also where the run failed later; a run without any result leaves the folder to others."
    report, path = tmp_path / "report", copied(tmp_path, CHANGES["width"])
    short_notebooks(fig1_source_count="raise ZeroDivisionError('on purpose')")
    assert reproduce(tmp_path, "smoke", "--out", str(report)) == 1
    assert not (report / "evidence.json").exists()
    short_notebooks(fig3_paths="raise ZeroDivisionError('on purpose')")
    assert reproduce(tmp_path, "smoke", "--out", str(report), only="fig1,fig3") == 1
    capsys.readouterr()
    assert reproduce(tmp_path, path, "--out", str(report)) == 2
    assert "holds results of profile 'smoke'" in capsys.readouterr().err


def changed_json(path, change):
    "Write a JSON file anew, after a function has changed its content."
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def older(tmp_path):
    "A function that copies what identifies a committed report, without the digest."
    def copy(name, without=()):
        report = tmp_path / "older" / name
        shutil.copytree(ROOT / "reports" / name / "data", report / "data")
        shutil.copy(ROOT / "reports" / name / "evidence.json", report)
        changed_json(report / "evidence.json", lambda own: own.pop("profile_digest", None))
        for part in without:
            (report / part).unlink()
        return report
    return copy


def own_copy(folder, name, *changes):
    "A profile that comes with the package as a file of the user's, with some texts replaced."
    text = (ROOT / f"nbs/experiments/profiles/{name}.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.toml").write_text(text)
    return load_profile(str(folder / f"{name}.toml"))


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_reports_can_be_continued(name, older):
    "Where they were made before there was a digest, settings and parameters say whose they are."
    check_report(ROOT / "reports" / name, "profile", load_profile(name))
    report = older(name)
    claim_report(report, profile_identity(load_profile(name)))
    check_report(report, "profile", load_profile(name))


@pytest.mark.parametrize("name", COMMITTED)
@pytest.mark.parametrize("change", ["points", "title", "nothing"])
def test_reports_without_a_digest_take_no_file_of_the_users(name, change, older, tmp_path):
    changes = {
        "points": [("points = 11", "points = 7"), ("title = ", 'title = "Mine"  # ')],
        "title": [("title = ", 'title = "Mine"  # ')],
        "nothing": [],
    }
    profile = own_copy(tmp_path, name, *changes[change])
    with pytest.raises(ValueError, match=f"out: .* results of profile '{name}' .of an older vers"):
        check_report(older(name), "out", profile)


@pytest.mark.parametrize("name", COMMITTED)
def test_reports_without_a_digest_take_no_other_parameters(name, older):
    report = older(name)
    profile, given = load_profile(name), {"fig3_paths": {"points": 5}}
    with pytest.raises(ValueError, match="an older version.* with points = 5 "):
        check_report(report, "out", profile, given)
    check_report(report, "out", profile, {"fig3_paths": {"points": 11}})
    # The profile that comes with the package has been changed since.
    experiments = profile.experiments | {"fig3_paths": dict(profile.experiments["fig3_paths"],
                                                            points=7)}
    with pytest.raises(ValueError, match="holds results of other parameters of 'fig3_paths'"):
        check_report(report, "profile", dataclasses.replace(profile, experiments=experiments))


def test_a_parameter_that_had_another_name_is_compared(older):
    def rename(summary):
        summary["parameters"]["longs"] = summary["parameters"].pop("equal_budget")
    profile, report = load_profile("digits"), older("digits")
    changed_json(report / "data/table2_fusion.json", rename)
    check_report(report, "profile", profile)
    fusion = dict(profile.experiments["table2_fusion"], equal_budget=4)
    changed = dataclasses.replace(profile,
                                  experiments=profile.experiments | {"table2_fusion": fusion})
    with pytest.raises(ValueError, match="other parameters of 'table2_fusion'"):
        check_report(report, "profile", changed)


@pytest.mark.parametrize("words", [["-p", "points=5"], ["file"]])
def test_the_command_adds_nothing_to_a_committed_report(words, older, tmp_path, capsys):
    report, profile = older("digits"), "digits"
    if words == ["file"]:
        own_copy(tmp_path, "digits", ("points = 11", "points = 7"), ("title = ", "title = 'x' # "))
        profile, words = tmp_path / "digits.toml", []
    before = contents(report)
    assert reproduce(tmp_path, profile, *words, "--out", str(report), only="fig3") == 2
    error = capsys.readouterr().err
    assert f"out: {report} holds results of profile 'digits' (of an older version" in error
    assert contents(report) == before


@pytest.mark.parametrize("name", COMMITTED)
@pytest.mark.parametrize("change", ["gone", "recipe", "model", "new field"])
def test_reports_without_a_digest_take_no_other_settings(name, change, older):
    profile, report = load_profile(name), older(name)
    paths = sorted((report / "data").glob("*.json"))
    used = sorted({key for path in paths for key in json.loads(path.read_text())["settings"]})
    first, settings = profile.settings[used[0]], dict(profile.settings)
    if change == "new field":  # the report is older than the field
        for path in paths:
            changed_json(path, lambda content: [own["recipe"].pop("momentum", None)
                                                for own in content["settings"].values()])
        check_report(report, "out", profile)
        return
    if change == "gone":
        del settings[used[0]]
    if change == "recipe":
        recipe = first.star_recipe.replace(epochs=first.star_recipe.epochs + 1)
        settings[used[0]] = dataclasses.replace(first, star_recipe=recipe)
    if change == "model":
        settings[used[0]] = dataclasses.replace(first, model=first.model | {"later": 1})
    with pytest.raises(ValueError, match=f"out: .* holds results of another setting '{used[0]}'"):
        check_report(report, "out", dataclasses.replace(profile, settings=settings))


DAMAGED = {"cut": '{"profile": "smo', "list": "[1]", "empty": "", "no object": "{}",
           "other kinds": '{"profile": 3}', "no digest": '{"profile": "x", "profile_digest": 1}',
           "no text": b"\xff\xfe"}


@pytest.mark.parametrize("change", DAMAGED)
@pytest.mark.parametrize("name", ["evidence.json", "data/fig3_paths.json"])
def test_a_report_that_cannot_say_whose_it_is_takes_nothing(change, name, older):
    if name != "evidence.json" and change in ("other kinds", "no digest"):
        return
    report, content = older("agnews"), DAMAGED[change]
    (report / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        check_report(report, "profile", load_profile("agnews"))
    assert str(caught.value) == (
        f"profile: {report / name} cannot be read, so whose results {report} holds is not known; "
        "restore that file, or choose another folder with out (--out DIR), or remove that folder "
        "to make it anew")


def test_an_evidence_that_is_a_folder_cannot_be_read_either(older):
    report = older("agnews", without=["evidence.json"])
    (report / "evidence.json").mkdir()
    with pytest.raises(ValueError, match="evidence.json cannot be read"):
        check_report(report, "out", load_profile("agnews"))


def test_damaged_evidence_of_no_results_counts_as_none(project, tmp_path, capsys):
    report = project / "reports/smoke"
    evidence_file = report / "evidence.json"
    whole = evidence_file.read_text()
    evidence_file.write_text(whole[:40])
    assert reproduce(tmp_path, "smoke", only="fig2") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"starlight: profile: {evidence_file} cannot be read")
    for folder in ("data", "notebooks"):
        shutil.rmtree(report / folder, ignore_errors=True)
    assert reproduce(tmp_path, "smoke", only="fig2") == 0
    assert json.loads(evidence_file.read_text())["profile"] == "smoke"


@pytest.mark.parametrize("parameters", [{"points": 11}, {"points": 5}])
def test_results_by_hand_are_of_the_same_parameters(parameters, tmp_path):
    "A notebook that is run by hand into a folder leaves no evidence of a profile."
    (tmp_path / "data").mkdir()
    (tmp_path / "data/fig3_paths.json").write_text(json.dumps(dict(parameters=parameters)))
    if parameters["points"] == 11:
        check_report(tmp_path, "out", load_profile("smoke"))
        return
    with pytest.raises(ValueError, match="other parameters of 'fig3_paths'"):
        check_report(tmp_path, "out", load_profile("smoke"))


@pytest.mark.parametrize("name", ["README.md", "index.html"])
def test_a_page_of_somebody_else_is_not_replaced(name, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("precious")
    assert cli.main(["reproduce", "--profile", "smoke", "--out", str(out), "--store",
                     str(tmp_path / "store"), "--dry-run"]) == 2
    assert f"out: {out} has a file {name} and no report" in capsys.readouterr().err
    assert (out / name).read_text() == "precious" and not (tmp_path / "store").exists()


def test_verdicts_of_other_settings_are_not_kept(tmp_path, capsys):
    reports = {}
    for name in ("digits", "mnist"):
        reports[name] = shutil.copytree(ROOT / "reports" / name, tmp_path / name)
    assert cli.main(["compare", *map(str, reports.values()), "--keep"]) == 2
    assert "other settings of" in capsys.readouterr().err
    assert cli.main(["compare", *map(str, reports.values())]) == 0
    told, empty, *_ = capsys.readouterr().out.splitlines()
    assert told.startswith("not one run and its repetition: other settings in fig3_paths, ") and not empty
    again = shutil.copytree(reports["mnist"], tmp_path / "again")
    for file in (again / "data").glob("*.json"):
        file.write_text(file.read_text().replace('"seed_set": 0', '"seed_set": 1'))
    evidence = again / "evidence.json"
    evidence.write_text(evidence.read_text().replace('"profile_digest": "', '"profile_digest": "other'))
    assert cli.main(["compare", str(reports["mnist"]), str(again), "--keep"]) == 0
    assert (reports["mnist"] / "claims_again.csv").exists()
    assert capsys.readouterr().out.startswith("| claim"), "nothing is told of a repetition"


def test_one_digest_has_one_title():
    "A parameter that the profile has already is in neither; two profiles may not share a title."
    plain, same, fewer = (check_request("smoke", ["fig3"], given)
                          for given in ({}, {"points": 11}, {"points": 5}))
    assert same.digest == plain.digest and same.title() == plain.title()
    assert same.identity() == plain.identity() and "parameters" not in same.identity()
    assert fewer.title() == f"{plain.title()}, points = 5"
    both = check_request("smoke", ["fig3"], {"sources": 3, "points": 5})
    assert both.title() == check_request("smoke", None, {"points": 5, "sources": 3}).title()
    profile = load_profile("smoke")
    experiments = {name: own | ({"points": 5} if "points" in own else {})
                   for name, own in profile.experiments.items()}
    file = dataclasses.replace(profile, experiments=experiments)
    assert profile_digest(file) != fewer.digest, "it has the title without the parameters"
    assert profile_digest(dataclasses.replace(file, title=fewer.title())) == fewer.digest


def test_a_notebook_that_was_run_by_hand_does_not_mix_either(project, tmp_path, capsys):
    "The digest is the same, but one experiment was made with other settings."
    report = project / "reports/smoke"
    profile = load_profile("smoke")
    settings = {name: dataclasses.asdict(own) for name, own in profile.settings.items()}
    settings["mlp"]["sources"] += 1
    (report / "data").mkdir()
    (report / "data/fig3_paths.json").write_text(json.dumps(dict(settings=settings)))
    capsys.readouterr()
    assert reproduce(tmp_path, "smoke", only="fig2") == 2
    assert "profile: " in (said := capsys.readouterr().err) and "another setting 'mlp'" in said


def test_a_request_says_where_its_report_lies(small_profile):
    mine = check_request(small_profile(), None, {})
    assert mine.folder == f"mine-{mine.digest[:8]}" and len(mine.digest) == 64
    assert check_request("smoke", None, {}).folder == "smoke"
    assert Path(mine.parameters["fig3_paths"]["profile"]).is_absolute()
