"""Data for the examples where you give none: judged summaries in the language of the micro task.

The model that belongs to it comes with Tandem, so every example runs on a laptop in a minute or
two. Each example takes your model and your file in their place.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tandem import Group, Sizes, load_task
from tandem.tasks.micro import Micro

Chat = list[dict[str, Any]]


def arguments(description: str, **more: str) -> argparse.Namespace:
    """Read MODEL and DATA from the command line, and a folder to work in."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="", help="your model; the micro task's if not given")
    parser.add_argument("--data", default="", help="your file; a small one is written if not given")
    parser.add_argument("--out", default="runs/example", help="folder of the run")
    for name, text in more.items():
        parser.add_argument(f"--{name}", default="", help=text)
    return parser.parse_args()


def example_model() -> Path:
    """Return the folder of the model of the micro task, one million weights."""
    return Micro().model()


def write_pairs(path: Path, n: int = 400) -> Path:
    """Write n rows of `prompt`, `chosen`, `rejected`, each a list of messages."""
    rows = [{"prompt": asked, "chosen": good, "rejected": bad} for asked, good, bad in summaries(n)]
    return write_rows(path, rows)


def write_thumbs(path: Path, n: int = 400) -> Path:
    """Write n rows of `prompt`, `completion`, `label`: half of the answers are good."""
    rows = [
        {"prompt": asked, "completion": bad if k % 2 else good, "label": not k % 2}
        for k, (asked, good, bad) in enumerate(summaries(n))
    ]
    return write_rows(path, rows)


def summaries(n: int) -> list[tuple[Chat, Chat, Chat]]:
    """Return n prompts, each with a true summary and one that invents."""
    task = load_task("micro", Sizes(demonstrations=n, pairs=1, prompts=1, evaluation=1), 0)
    other = load_task("micro", Sizes(demonstrations=2 * n, pairs=1, prompts=1, evaluation=1), 1)
    strangers = [g.completions[0].text for g in other.demonstrations]
    found: list[tuple[Chat, Chat, Chat]] = []
    for k, group in enumerate(task.demonstrations):
        good, bad = group.completions[0].text, strangers[2 * k % len(strangers)]
        found.append((chat_of(group), said(good), said(bad)))
    return found


def chat_of(group: Group) -> Chat:
    """Return a group's prompt as messages."""
    return [dict(m) for m in group.prompt.messages or ()] or said(group.prompt.text, "user")


def said(text: str, role: str = "assistant") -> Chat:
    """Return one turn."""
    return [{"role": role, "content": text}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
