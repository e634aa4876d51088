"""Imports point down, and what must start at once does not load torch."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from tandem.methods import INPUTS, METHODS, load_method

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets")
TORCH_FREE = (
    "errors", "rng", "machine", "data", "data.groups", "data.verifiable", "data.chat",
    "data.formats", "data.check.check", "runs.run", "runs.artifacts", "runs.atomic_files",
    "runs.events", "runs.environment", "runs.trackers",
    "methods", "tasks", "cli", "cli.settings", "cli.run", "cli.data", "judges",
    "operators", "statistics", "evaluation", "labelling", "report",
)  # fmt: skip

LOADED = """
import json, sys
from tandem.cli import main
try:
    code = main(json.loads(sys.argv[1]))
except SystemExit as stopped:
    code = stopped.code
print("\\n" + json.dumps([code, [m for m in json.loads(sys.argv[2]) if m in sys.modules]]))
"""


def test_the_import_contract_holds():
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_contract_forbids_exists():
    """A wall against a module that nobody has stands nowhere."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    forbidden = [
        name
        for section in contracts.values()
        for name in section.get("forbidden_modules", "").split("\n")
        if name.strip() and not name.strip().startswith(";")
    ]
    assert len(forbidden) >= 7
    assert [name for name in forbidden if importlib.util.find_spec(name.strip()) is None] == []


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["methods"], ["data", "check", "--help"], ["run", "--help"]],
    ids=" ".join,
)
def test_commands_that_must_not_wait_load_no_torch(words):
    command = [sys.executable, "-c", LOADED, json.dumps(words), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


LABEL = ("litestar", "uvicorn", "sqlalchemy", "alembic", "nh3", "pwdlib", "krippendorff")


@pytest.mark.parametrize(
    "code", ["import tandem", "import tandem.cli; tandem.cli.main(['--help'])"]
)
def test_the_labelling_page_is_not_loaded_by_what_does_not_need_it(code):
    check = f"{code}\nimport sys; print([m for m in {LABEL} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_labelling_server_loads_no_torch():
    pytest.importorskip("litestar", reason="needs the extra `label`")
    code = (
        "import sys, tandem.labelling.server, tandem.labelling.demo, tandem.labelling.export\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_torch_free_modules_load_no_torch(name):
    assert importlib.util.find_spec(f"tandem.{name}") is not None
    code = f"import sys, tandem.{name}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_starts_in_under_half_a_second():
    """The best of five, because the machine may be busy with other things."""

    def once() -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "tandem", "--help"]
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.5


@pytest.mark.parametrize("name", METHODS)
def test_every_row_has_its_file_config_and_recipe(name):
    method = load_method(name)
    assert is_dataclass(method.config)
    method.config()
    undocumented = [f.name for f in fields(method.config) if f.name not in docs(method.config)]
    assert undocumented == []
    parameters = list(inspect.signature(method.recipe).parameters.values())
    assert parameters[0].name == "run"
    assert parameters[-1].name == "cfg"
    assert {p.name for p in parameters[1:-1]} <= set(INPUTS)


def docs(kind: type) -> dict[str, str]:
    from tandem.cli.settings import field_docs

    return field_docs(kind)
