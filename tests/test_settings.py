"""Settings: one order of precedence, one reader of the environment, and light imports."""
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from starlight_nb.runtime.settings import VARIABLES, Settings, given_variables

RUNTIME = Path(__file__).parents[1] / "starlight_nb" / "runtime"
TEXTS = {"store": "/s", "data": "/d", "report": "/r", "device": "cpu", "jobs": "7", "backend": "ray",
         "ray_address": "here:1", "checkpoint_seconds": "0", "since": "12.25", "progress": "/p"}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in (*VARIABLES.values(), "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_every_field_has_a_variable():
    assert [field.name for field in dataclasses.fields(Settings)] == list(VARIABLES)
    assert TEXTS.keys() == VARIABLES.keys()


@pytest.mark.parametrize("field, text", TEXTS.items())
def test_a_variable_wins_over_defaults_and_an_option_over_a_variable(field, text, monkeypatch):
    default = getattr(Settings.from_environment(), field)
    wanted = {"checkpoint_seconds": 0.0, "since": 12.25, "jobs": 7}.get(field, text)
    monkeypatch.setenv(VARIABLES[field], text)
    found = getattr(Settings.from_environment({field: default}), field)
    assert str(found) == str(wanted)
    monkeypatch.setenv(VARIABLES[field], "")
    assert getattr(Settings.from_environment(), field) == default
    assert str(getattr(Settings.from_environment({field: text}), field)) == str(wanted)
    monkeypatch.setenv(VARIABLES[field], "wrong: never read")
    assert str(getattr(Settings.from_environment(**{field: text}), field)) == str(wanted)


@pytest.mark.parametrize("options", [TEXTS, {}])
def test_a_child_process_reads_the_same_settings(options):
    settings = Settings.from_environment(**options)
    code = "from starlight_nb.runtime.settings import Settings; print(Settings.from_environment())"
    environment = os.environ | {"PYTHONPATH": str(RUNTIME.parents[1])} | settings.variables()
    child = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment,
                           capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(settings)


def test_settings_do_not_follow_the_environment(monkeypatch):
    settings = Settings.from_environment()
    monkeypatch.setenv("STARLIGHT_JOBS", "99")
    assert settings.jobs != 99
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.jobs = 2


def test_the_address_of_ray_is_ours_before_ray_s(monkeypatch):
    assert Settings.from_environment().ray_address == "local"
    monkeypatch.setenv("RAY_ADDRESS", "theirs:1")
    assert Settings.from_environment().ray_address == "theirs:1"
    monkeypatch.setenv("STARLIGHT_RAY_ADDRESS", "ours:1")
    assert Settings.from_environment().ray_address == "ours:1"
    assert given_variables().items() >= {"STARLIGHT_RAY_ADDRESS": "ours:1"}.items()


def test_one_part_reads_the_environment():
    readers = [path.name for path in RUNTIME.glob("*.py")
               if "os.environ" in path.read_text() or "getenv" in path.read_text()]
    assert readers == ["settings.py"]


def test_parts_without_networks_do_not_import_torch():
    code = ("import sys; from starlight_nb.runtime import settings, files, progress, jobs; "
            "settings.Settings.from_environment(); sys.exit('torch' in sys.modules)")
    environment = os.environ | {"PYTHONPATH": str(RUNTIME.parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
