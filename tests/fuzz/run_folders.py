"""Folders of runs, damaged: noticed at the stage that is damaged, and never built on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzz.corpus import Corpus
from fuzz.damage import change_bytes, change_json
from fuzz.model_folders import FEW
from fuzz.verdicts import (
    Answer,
    Verdict,
    give_command,
    judge_answer,
    list_files,
    name_changes,
)

SCRIPT = "<script>alert('canary')</script>"
STRANGERS = ("os.system", "subprocess.Popen", "builtins.eval", "tandem.cli:main", "x", "", 7, None)
UNREAD = (".lock", "events.jsonl", ".toml", "report.html", "report.json", "DONE")
"""Ends of files that hold no result; a page is made of them, and a run goes on without them."""


GONE, FORGED = "gone, or another thing: ", "a value and its hash: "


class RunFolders:
    """A finished run with a file changed, cut, swapped or gone; checked, shown and resumed."""

    name, goal, deadline = "runs", 500, 180.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus

    def prepare(self, home: Path) -> None:
        """Make a whole run of a few stages."""
        import tiny
        from vocabularies import CHATML, byte_bpe

        self.base, self.run, self.data = home / "base", home / "whole", home / "pairs.jsonl"
        for place in (self.base, self.run):
            shutil.rmtree(place, ignore_errors=True)
        tokenizer = byte_bpe(CHATML)
        tiny.lm("llama", vocab_size=len(tokenizer)).save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)
        pairs = [
            {"prompt": f"say {k}", "chosen": f"{k} it is", "rejected": "no"} for k in range(20)
        ]
        self.data.write_text("".join(json.dumps(p) + "\n" for p in pairs), encoding="utf-8")
        answer = self._resumed(self.run)
        if answer.code != 0:
            raise RuntimeError(answer.err)
        self.results = digest_results(self.run)
        assert give_command(["runs", "check", str(self.run)]).code == 0

    def _resumed(self, run: Path) -> Answer:
        few = [w for w in FEW if not w.startswith("--sft")]
        sizes = ("--dpo.epochs=1", "--dpo.batch=8", "--sft.steps=1", "--sft.batch=4")
        start = ["run", "dpo", f"--model={self.base}", f"--data={self.data}", f"--out={run}"]
        return give_command([*start, *few, *sizes, "--reward.epochs=1", "--reward.batch=8"])

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Damage a copy; verify it, show it, and give its command again."""
        run = folder / "run"
        shutil.copytree(self.run, run)
        told, harmless = damage_run(run, dice)
        changed = not harmless and digest_results(run) != self.results
        verdict = Verdict("noticed", told={"damage": told})
        before = list_files(run)
        checked = give_command(["runs", "check", str(run)])
        judge_answer(checked, verdict, (0, 1, 2))
        if checked.code == 0 and changed:
            verdict.blame("accepted", f"`runs check` finds nothing: {told}")
        if changes := name_changes(before, list_files(run)):
            verdict.blame("made", f"by `runs check`: {', '.join(changes)}")
        page = folder / "page.html"
        shown = give_command(["report", str(run), f"--out={page}"])
        judge_answer(shown, verdict)
        if page.exists() and SCRIPT in page.read_text(encoding="utf-8"):
            verdict.blame("leak", "the page holds a script of the folder's")
        self._judge_resumed(run, verdict, changed)
        return verdict

    def _judge_resumed(self, run: Path, verdict: Verdict, changed: bool) -> None:
        before = list_files(run)
        again = self._resumed(run)
        judge_answer(again, verdict)
        verdict.reason = again.reason
        if again.code == 2:
            changes = name_changes(before, list_files(run))
            if changes := [c for c in changes if not c.endswith("run.lock")]:
                verdict.blame("made", f"by the command again: {', '.join(changes)}")
            return
        verdict.ending = "mended" if changed else "harmless"
        forged = verdict.told["damage"].startswith(FORGED)  # then nobody can know
        if (
            again.code == 0
            and not forged
            and (other := name_changes(self.results, digest_results(run)))
        ):
            verdict.blame("differs", f"went on, and {', '.join(other)} differ")


def digest_results(run: Path) -> dict[str, bytes]:
    """Return every stage's artifact, byte by byte."""
    files = (f for f in run.rglob("*") if "artifact" in f.parts and f.is_file())
    return {f.relative_to(run).as_posix(): f.read_bytes() for f in files}


def damage_run(run: Path, dice: random.Random) -> tuple[str, bool]:
    """Damage a run in one way; return what was done, and whether nothing may come of it."""
    ways: tuple[Callable[[Path, random.Random], str], ...] = (
        _flip, _flip, _change, _change, _tree, _tree, _swap, _remove, _stranger, _script,
        _forge, _forge,
    )  # fmt: skip
    told = dice.choice(ways)(run, dice)
    whole_stage = told.startswith(GONE) and "/" not in told
    forged = told.startswith(FORGED)
    return told, whole_stage or forged or any(told.endswith(end) for end in UNREAD)


def _files(run: Path) -> list[Path]:
    return sorted(p for p in run.rglob("*") if p.is_file() and p.name != "run.lock")


def _results(run: Path) -> list[Path]:
    return [p for p in _files(run) if "artifact" in p.parts]


def _flip(run: Path, dice: random.Random) -> str:
    file = dice.choice(_results(run))
    data = bytearray(file.read_bytes())
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file.write_bytes(bytes(data))
    return f"a bit of {file.relative_to(run)}"


def _change(run: Path, dice: random.Random) -> str:
    file = dice.choice(_files(run))
    file.write_bytes(change_bytes(file.read_bytes(), dice))
    return f"bytes of {file.relative_to(run)}"


def _tree(run: Path, dice: random.Random) -> str:
    file = dice.choice([p for p in _files(run) if p.suffix == ".json"])
    file.write_text(change_json(file.read_text(encoding="utf-8"), dice), encoding="utf-8")
    return f"a node of {file.relative_to(run)}"


def _swap(run: Path, dice: random.Random) -> str:
    one, other = dice.sample(_results(run), 2)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return f"{one.relative_to(run)} and {other.relative_to(run)} swapped"


def _remove(run: Path, dice: random.Random) -> str:
    places = [*_files(run), *(p for p in run.iterdir() if p.is_dir())]
    place = dice.choice(places)
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    if dice.random() < 0.3:
        place.write_text("x")
    elif dice.random() < 0.3:
        place.mkdir()
    return f"{GONE}{place.relative_to(run)}"


def _stranger(run: Path, dice: random.Random) -> str:
    file = dice.choice([p for p in _files(run) if p.name in ("stage.json", "value.json")])
    table = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(table, dict):
        table["__class__" if file.name == "value.json" else "function"] = dice.choice(STRANGERS)
        file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return f"a stranger's name in {file.relative_to(run)}"


def _forge(run: Path, dice: random.Random) -> str:
    """Change a value and its hash too: whoever makes a folder can make all of it."""
    file = dice.choice([p for p in _files(run) if p.name == "value.json"])
    text = change_json(file.read_text(encoding="utf-8"), dice) + "\n"
    file.write_text(text, encoding="utf-8")
    stage = file.parents[1] / "stage.json"
    table = json.loads(stage.read_text(encoding="utf-8"))
    table["result"]["hash"] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    stage.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return f"{FORGED}{file.relative_to(run)}"


def _script(run: Path, dice: random.Random) -> str:
    file = dice.choice([p for p in _files(run) if p.suffix in (".json", ".jsonl", ".toml")])
    text = file.read_text(encoding="utf-8")
    old = dice.choice(("say", "dpo", "sft", "name", "text"))
    file.write_text(text.replace(old, SCRIPT), encoding="utf-8")
    return f"a script in {file.relative_to(run)}"
