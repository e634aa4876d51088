"""A card for a trained model: what it was made of, with what, how good it is, and how to repeat it.

Numbers are those of the run's own stages. What the run did not measure is not claimed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tandem.runs.atomic_files import read_json, write_text
from tandem.runs.policies import typed_command
from tandem.runs.records import Record, read_records

EXAMS = ("policy-evaluation", "policy-exam", "held-out-exam", "marks-exam", "reward-exam")
FENCE = re.compile(r"`{3,}")
LONGEST = 20_000
"""Characters of settings or results that a card holds."""


def write_model_card(run: Path, out: Path, *, adapter: bool = False) -> Path:
    """Write README.md beside an exported model.

    Args:
        run: the run's folder.
        out: the model's folder.
        adapter: what is exported is the adapter alone.
    """
    snapshot = read_json(run / "run.json") or {}
    settings = _settings(run / "run.toml")
    parts = [
        _front_matter(settings, adapter=adapter),
        f"# {_plain(out.name)}\n\n{_sentence(settings, adapter=adapter)}",
        _section("Data", "\n".join(_data(run, settings))),
        _section("Results", "\n\n".join(_results(run)) or "Not evaluated: `--evaluate none`."),
        _section("Command", _fenced(typed_command(run) or "(made from Python)", "sh")),
        _section("Settings", _fenced(_text(run / "run.toml"), "toml")),
        _section("Made with", "\n".join(_versions(snapshot))),
        _section(
            "Limits",
            "The results are about the held-out prompts of this data, and about this seed. What a "
            "reward model or a judge prefers need not be what people prefer. Check the licence of "
            "the model that training started from, and that of the data, before you publish.",
        ),
    ]
    path = out / "README.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _front_matter(settings: Mapping[str, Any], *, adapter: bool) -> str:
    method = str(settings.get("method", "training"))
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}"]
    base = settings.get("model")
    if isinstance(base, str) and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", base):
        lines.append(f"base_model: {base.partition('@')[0]}")
    lines += ["tags:", "- tandem", f"- {_plain(method)}", "---"]
    return "\n".join(lines)


def _sentence(settings: Mapping[str, Any], *, adapter: bool) -> str:
    what = "A LoRA adapter" if adapter else "A language model"
    base = settings.get("model") or settings.get("task") or "a model"
    start = " after SFT" if settings.get("start") == "sft" else ""
    method = _plain(str(settings.get("method", "training"))).upper()
    return f"{what} made by {method} from `{_plain(str(base))}`{start}, with Tandem."


def _data(run: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    for name in ("data", "eval_data", "task"):
        if isinstance(settings.get(name), str):
            yield f"- {name}: `{_plain(settings[name])}`"
    for record in read_records(run):
        counts = _groups_read(record)
        if counts and record.name in ("demonstrations", "preferences", "held-out", "evaluation"):
            yield f"- {record.name}: {counts[0]:,} prompts, content `{counts[1]}`"


def _groups_read(record: Record) -> tuple[int, str] | None:
    """Return how many prompts a stage was given, and the hash of their content."""
    given = record.arguments.get("groups", record.arguments.get("prompts"))
    if isinstance(given, Mapping) and "groups" in given:
        return int(given.get("prompts", 0)), str(given["groups"])
    return None


def _results(run: Path) -> Iterator[str]:
    for record in read_records(run):
        if record.name in EXAMS:
            found = record.load()
            if isinstance(found, Mapping) and isinstance(found.get("text"), str):
                yield f"{record.name}:\n\n{_fenced(found['text'], 'text')}"


def _versions(snapshot: Mapping[str, Any]) -> Iterator[str]:
    versions = snapshot.get("versions")
    known = versions if isinstance(versions, Mapping) else {}
    for name in ("tandem-rlhf", "torch", "transformers", "peft", "tokenizers"):
        if known.get(name):
            yield f"- {name} {_plain(str(known[name]))}"
    for name in ("git", "python", "platform", "cpu", "seed"):
        if snapshot.get(name) is not None:
            yield f"- {name}: {_plain(str(snapshot[name]))}"


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError:
        return {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _fenced(text: str, kind: str) -> str:
    """Put text behind a fence that nothing in it can close."""
    longest = max((len(found) for found in FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{kind}\n{text[:LONGEST].strip()}\n{fence}"


def _plain(text: str) -> str:
    """Return one line without signs that Markdown or YAML would read."""
    return re.sub(r"[^\w./:+@ ,()-]", "_", " ".join(text.split()))[:200]
