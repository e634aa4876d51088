"""The README says what is true: its table, its links, its Python."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.methods import METHODS, methods_markdown

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_methods_is_the_generated_one():
    inside = README.split("<!-- methods:")[1].split("<!-- /methods -->")[0].partition("-->\n")[2]
    assert inside == methods_markdown()


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")))
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing


def test_the_methods_named_in_commands_exist():
    named = set(re.findall(r"tandem run (\w+)", README))
    assert named
    assert named <= set(METHODS)


def test_the_python_block_runs_as_it_stands(tmp_path: Path):
    """The ten lines leave a model folder that plain transformers opens."""
    block = re.findall(r"```python\n(.*?)```", README, flags=re.S)[0]
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert (tmp_path / folder / "model.safetensors").exists()
