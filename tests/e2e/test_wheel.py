"""What is published works by itself: the wheel, in an environment that holds nothing else.

The other tests read the package from its sources, so they cannot see a file that the wheel left
out, nor a requirement that pyproject.toml forgot.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "tandem"
LIMIT = 1800.0
"""Seconds that one command may take; installing PyTorch is the longest."""

pytestmark = pytest.mark.slow


def run(*words: str | Path, at: Path) -> str:
    """Run a command that sees no checkout and no other environment; return what it printed."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(w) for w in words], cwd=at, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", out, ROOT, at=out)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel and the pinned requirements."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    found = folder / "bin" / "python"
    pins = ROOT / "constraints.txt"
    run(found, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel, at=folder)
    return found


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path):
    """Weights, settings, presets, templates and `py.typed` too, byte for byte."""
    with zipfile.ZipFile(wheel) as packed:
        inside = {n: packed.read(n) for n in packed.namelist() if n.startswith("tandem/")}
    here = {
        f"tandem/{p.relative_to(SOURCES).as_posix()}": p.read_bytes()
        for p in SOURCES.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert any(name.endswith(".safetensors") for name in here)
    assert set(inside) == set(here)
    assert inside == here


def test_the_package_comes_from_the_wheel(python: Path, tmp_path: Path):
    where = run(python, "-c", "import tandem; print(tandem.__file__)", at=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    run(python, "-m", "pip", "check", at=tmp_path)
    assert "best-of-n" in run(python.with_name("tandem"), "methods", at=tmp_path)


def test_the_smoke_comparison_runs_from_there(python: Path, tmp_path: Path):
    """Training, sampling, judging, statistics and the report's page, by the smallest preset."""
    words = ("-m", "tandem", "bench", "--preset", "smoke", "--out", "first")
    told = run(python, *words, at=tmp_path)
    found = json.loads((tmp_path / "first" / "results.json").read_text(encoding="utf-8"))
    assert {p["status"] for p in found["policies"]} == {"done"}
    assert {"dpo", "ppo"} <= {p.get("method") for p in found["policies"]}
    assert all(p["policy"] in told for p in found["policies"])
    page = (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<style" in page
