"""The repository's own files: they parse, and they run what `make check` and `.ci/run` run."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_runs_what_ci_runs():
    workflow = parsed(GITHUB / "workflows" / "ci.yml")
    (job,) = workflow["jobs"].values()
    assert [s["run"] for s in job["steps"] if "run" in s] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert 0 < job["timeout-minutes"] <= 60
    assert all("@" in s["uses"] for s in job["steps"] if "uses" in s)


def test_the_workflow_tries_the_oldest_python_that_is_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (job,) = parsed(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert all(isinstance(v, str) for v in versions)  # 3.10 without quotes would be 3.1
    assert f">={versions[0]}" == project["requires-python"]


def test_hooks_before_a_commit_are_the_lines_of_make_check():
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.M)
    assert recipe is not None
    made = recipe[1].replace("$(PY)", "$(VENV)/bin/python").replace("$(VENV)", ".venv")
    (local,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    lines = made.replace("\t", "").splitlines()
    asked = [f"sh -c '{line}'" if "*" in line else line for line in lines]
    assert [h["entry"] for h in local["hooks"]] == asked
    assert {h["language"] for h in local["hooks"]} == {"system"}
    assert not any(h["pass_filenames"] for h in local["hooks"])


@pytest.mark.parametrize("form", FORMS, ids=lambda p: p.stem)
def test_a_form_for_issues_is_one(form: Path):
    """The parts that GitHub asks for; without them it shows no form at all."""
    found = parsed(form)
    assert {"name", "description", "body"} <= set(found)
    asked = [f for f in found["body"] if f["type"] != "markdown"]
    assert {f["type"] for f in found["body"]} <= FIELDS
    assert any(f.get("validations", {}).get("required") for f in asked)
    assert len({f["id"] for f in asked}) == len(asked)
    assert all(f["attributes"]["label"] for f in asked)


def test_every_yaml_file_parses():
    files = [*GITHUB.rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) > len(FORMS)
    assert all(isinstance(parsed(f), dict) for f in files)


def test_nothing_that_is_kept_is_a_link():
    """A link of one machine replaces the folder of that name on another."""
    listed = subprocess.run(
        ["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []
