"""`examples/dpo_in_one_file.py` is short, uses no recipe of ours, and learns."""

import runpy
from itertools import pairwise
from pathlib import Path

FILE = Path(__file__).parents[2] / "examples" / "dpo_in_one_file.py"


def test_it_fits_on_a_page_and_hides_nothing():
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    for other in ("tandem.methods", "tandem.training", "recipe(", "Run("):
        assert other not in text


def test_margins_rise():
    """From 0, where the policy is the reference; the first epoch is still close to it."""
    margins = runpy.run_path(str(FILE))["main"](prompts=32)
    assert abs(margins[0]) < 1
    assert all(later > earlier for earlier, later in pairwise(margins))
    assert margins[-1] > 1
