"""Every block of commands and of Python in the README and the docs is run.

A page is a session: its `sh` and `python` blocks, in order, in one empty folder that holds what
the pages speak of: `my-model`, a small model, and `preferences.jsonl`. Commands of `tandem` run in
this process, with sizes made small by flags that a user has too (`SMALL`). Two passes: the fast one
stops before anything is trained (`--dry_run`); the slow one (`make slow`) runs all of it.

`make` and `pip` lines are not run here but compared with the Makefile and pyproject.toml.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandem.cli import main

ROOT = Path(__file__).parents[2]
SKIPPED = ("log", "results", "adr", "gallery")
METHODS = sorted((ROOT / "docs/methods").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        p
        for p in sorted((ROOT / "docs").rglob("*.md"))
        if not set(SKIPPED) & set(p.relative_to(ROOT).parts) and p not in METHODS
    ),
]
RUN = ("run", "bench")
HERE = {"HuggingFaceTB/SmolLM2-135M-Instruct": "my-model"}
"""What pages take from the hub, and what stands for it here."""
SMALL = [
    "--sizes.demonstrations=64", "--sizes.pairs=48", "--sizes.held_out=24", "--sizes.prompts=48",
    "--sizes.evaluation=24", "--sft.epochs=1", "--sft.batch=16", "--reward.batch=16",
    "--sampling.max_tokens=12",
]  # fmt: skip
FEW = {
    "ppo": ["--ppo.rounds=1", "--ppo.prompts=16", "--ppo.minibatch=8"],
    "best_of_n": ["--best_of_n.n=2", "--best_of_n.pool=4"],
}
TINY_PLAN = """
[sizes]
demonstrations = 64
pairs = 48
held_out = 24
prompts = 48
evaluation = 24
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for kind, inside in re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.M | re.S):
        yield Block(kind, inside)


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command line of a page, as a shell reads them.

    Comments are dropped, lines that end in a backslash are joined, and `M=...` gives `$M` a value.
    """
    found: list[list[str]] = []
    values: dict[str, str] = {}
    joined = (b.text.replace("\\\n", " ") for b in blocks(page) if b.kind == "sh")
    for line in (line for text in joined for line in text.splitlines()):
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (named := re.fullmatch(r"([A-Z]+)=(.+)", words[0])):
            values[named[1]] = HERE.get(named[2], named[2])
        elif words:
            found.append([re.sub(r"\$([A-Z]+)\b", lambda m: values[m[1]], w) for w in words])
    return found


def test_every_block_is_of_a_kind_that_is_looked_at():
    known = {"sh", "python", "toml", "json", "text", "py", "diff"}
    assert {b.kind for page in [*PAGES, *METHODS] for b in blocks(page)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_and_pip_lines_name_what_is_there(page: Path):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in commands(page):
        assert words[0] in ("make", "pip", "tandem", "python", "accelerate", "source"), words
        if words[0] == "make":
            assert words[1] in targets
        for named in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            assert set(named.split(",")) <= set(extras["optional-dependencies"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_data_blocks_parse(page: Path):
    for block in blocks(page):
        if block.kind == "toml":
            tomllib.loads(block.text)
        if block.kind == "json":
            assert all(json.loads(line) for line in block.text.splitlines())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of; the working folder of the session."""
    from tandem.tasks.micro import Micro

    config = shutil.copytree(Micro().model(), tmp_path / "my-model") / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 1024})
    )
    rows = [
        {"prompt": f"say w{i}", "chosen": f"i saw w{i} .", "rejected": f"no {i % 7}"}
        for i in range(80)
    ]
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments", target_is_directory=True)
    (tmp_path / "rubric.md").write_text("The true one, then the shorter one.")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "say 1"}\n{"prompt": "say 2"}\n')
    monkeypatch.setenv("TANDEM_LABEL_SECRET", "0" * 64)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    for block in (b for page in PAGES for b in blocks(page) if b.kind == "toml"):
        if "title" in (plan := tomllib.loads(block.text)):
            Path(f"{plan['title']}.toml").write_text(block.text + TINY_PLAN)
    return tmp_path


def checked(words: list[str]) -> list[str] | None:
    """Return a `tandem` command that looks at everything and does nothing; None: nothing to do."""
    if words[0] in RUN or words[:2] == ["label", "serve"]:
        made = [w for w in words if w.endswith(".parquet") and not Path(w).exists()]
        if made:
            return None  # by an earlier line of the page
        return words if "--dry_run" in words else [*words, "--dry_run"]
    return words if words[0] in ("methods", "data") else None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_are_understood(page: Path, home: Path, capsys):
    """No command of a page is refused: names, flags, values and files are as the pages say."""
    for words in (w[1:] for w in commands(page) if w[0] == "tandem"):
        if (asked := checked(words)) is not None:
            assert main(asked) in (0, 1), (words, capsys.readouterr().err)


@pytest.mark.parametrize("page", METHODS, ids=lambda p: p.stem)
def test_the_command_of_a_methods_page_is_understood(page: Path, home: Path, capsys):
    (words,) = commands(page)
    assert main([*words[1:], "--dry_run"]) == 0, capsys.readouterr().err


def small(words: list[str]) -> list[str]:
    """Return a command that runs in seconds, by flags.

    Commands that need a server or its votes are run by tests/e2e/test_labelling_*.py and
    tests/unit/test_labelling_export.py; here their pages are only checked.
    """
    if words[0] == "label":
        return (
            [*words, "--max_tokens=12"] if words[1] == "sample" else checked(words) or ["methods"]
        )
    if words[0] == "run" and "--dry_run" not in words:
        return [*words, *SMALL, *FEW.get(words[1], [])]
    if words[0] == "bench" and "--budget" in words and "--methods" not in words:
        at = words.index("--budget") + 1
        return [*words[:at], "1s", *words[at + 1 :]]  # the shortest preset
    if words[0] == "bench" and not {"--dry_run", "--preset"} & set(words):
        Path("small.toml").write_text(_plan(words))
        kept = [*words[1:]]
        if "--methods" in kept:
            at = kept.index("--methods")
            del kept[at : at + 2]
        return ["bench", "small.toml", *kept]
    return words


def _plan(words: list[str]) -> str:
    names = words[words.index("--methods") + 1].split(",")
    entries = "".join(f'\n[[entry]]\nmethod = "{n}"\n' for n in names)
    tables = "[settings.sampling]\nmax_tokens = 16\n[settings.best_of_n]\nn = 2\npool = 4\n"
    tables += "[settings.rso]\npool = 4\nkeep = 2\n"
    tables += "[settings.ppo]\nrounds = 1\nprompts = 16\nminibatch = 8\n"
    return f'title = "small"\n{TINY_PLAN}\n{tables}{entries}'


def test_the_blocks_of_the_tutorial_on_extending_run(home: Path):
    """Small enough for the fast pass: each block with names of its own, in one process."""
    texts = [b.text for b in blocks(ROOT / "docs/tutorials/extend.md") if b.kind == "python"]
    assert len(texts) >= 7
    Path("blocks.json").write_text(json.dumps(texts))
    code = "import json\nfor b in json.load(open('blocks.json')): exec(b, {'__name__': '__main__'})"
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Group" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_runs_from_top_to_bottom(page: Path, home: Path, capsys):
    for block in blocks(page):
        if block.kind == "sh":
            for line in block.text.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "tandem":
                    assert main(small(words[1:])) in (0, 1), (line, capsys.readouterr().err)
        elif block.kind == "python":
            done = subprocess.run(
                [sys.executable, "-c", block.text], cwd=home, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-2000:]
