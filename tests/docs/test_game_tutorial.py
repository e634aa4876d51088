"""The tutorial on transitive preferences is run, and prints what it shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tandem.cli import main

PAGE = Path(__file__).parents[2] / "docs/tutorials/are-my-preferences-transitive.md"


def test_the_tutorial_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed, shown = "", 0
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S):
        if kind == "python":
            words = [sys.executable, "-c", block]
            printed += subprocess.run(words, capture_output=True, text=True, check=True).stdout
        elif kind == "sh":
            assert main(shlex.split(block)[1:]) == 0
            printed += capsys.readouterr().out
        else:
            assert block in printed
            shown += 1
    assert shown == 5
    assert {"game.json", "game.svg"} <= {p.name for p in tmp_path.iterdir()}
