"""The verdict of a judge that reasons first: asked for in a template, read by a stated rule.

The rule, `last-line-2`, in this order:

    1. An answer that was cut (it did not end by itself) has no verdict.
    2. Reasoning is taken out: all up to the last closing mark, such as </think>, [/THINK] or
       <|end_of_thought|>. A mark that is opened and never closed leaves no verdict.
    3. The last line that begins with "Verdict:" (or "Final verdict:"), or that is [[A]], [[B]] or
       [[C]] alone, counts. It says A, B or tie, or who is better, and nothing else.
    4. Without such a line the whole answer counts, if it is A, B or tie and nothing else.
    5. Anything else is unreadable. It is an outcome of its own and never a label.

So a letter that occurs in the reasons is never taken for the verdict. No torch.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from tandem.data.record import Prompt
from tandem.errors import ConfigError
from tandem.judges.templates import asked_text, check_fields, sanitise_text

Verdict = Literal["A", "B", "tie"]
RULE = "last-line-2"
_TAGS = r"(?:seed:)?(?:think|thinking|reasoning|thought)"
_CLOSED = re.compile(rf"</\s*{_TAGS}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>", re.I)
_OPENED = re.compile(rf"<\s*{_TAGS}\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>", re.I)
_LINE = re.compile(
    r"^[\s*_#>`]*(?:(?:final|my|overall)\s+)?verdict[\s*_`]*[:=][\s*_`]*(.*)$"
    r"|^[\s*_]*(\[\[[ABC]\]\])[\s*_.]*$",
    re.I,
)
_DRESSING = "()[]{}*_`'\"., \t"
_SAID = re.compile(
    r"(?:(?:answer|assistant|response|option)\s+)?\(?([ab])\)?"
    r"(?:\s+(?:wins|is (?:clearly )?(?:better|best|the better (?:one|answer|response))))?"
)
_TIES = ("tie", "c", "equal", "both")


def read_verdict(text: str, *, stopped: bool = True) -> Verdict | None:
    """Return what a judge decided, by the rule above; None where it cannot be read.

    Args:
        text: the judge's whole answer.
        stopped: whether it ended by itself.

    Example:
        >>> read_verdict("<think>A seems fine (A)</think>\\nB is right.\\n**Verdict: B**")
        'B'
        >>> read_verdict("I prefer A to B") is None
        True
    """
    if not stopped:
        return None
    if closed := list(_CLOSED.finditer(text)):
        text = text[closed[-1].end() :]
    if _OPENED.search(text):
        return None
    lines = [m[1] or m[2] or "" for line in text.splitlines() if (m := _LINE.match(line))]
    said = (lines[-1] if lines else text).strip().strip(_DRESSING).lower()
    if said in _TIES:
        return "tie"
    found = _SAID.fullmatch(said) if lines or len(said) < len("answer (a)") else None
    return None if found is None else "A" if found[1] == "a" else "B"


@dataclass(frozen=True)
class VerdictFormat:
    """Asks for reasons, and a verdict on the last line.

    >>> VerdictFormat().mark
    'reasons-1:...'

    Attributes:
        ask: the user's turn, with {principle}, {question}, {a} and {b}.
        version: the template's name, changed by hand whenever its words change.
        delimiters: what structures the template, and is taken out of all text put into it.
    """

    ask: str = (
        "### Request\n{question}\n\n### Answer A\n{a}\n\n### Answer B\n{b}\n\n"
        "### Task\nCompare the two answers by this principle: {principle}\n"
        "First give your reasons in a few sentences. Then end with one line that says\n"
        "Verdict: A\nor\nVerdict: B\nor\nVerdict: tie"
    )
    version: str = "reasons-1"
    delimiters: tuple[str, ...] = ("###", "Verdict:", "<think>", "</think>")

    def __post_init__(self) -> None:
        check_fields("verdict.ask", self.ask, {"principle", "question", "a", "b"})
        if not self.version:
            raise ConfigError(
                "verdict.version is empty",
                "labels say by which template they were given",
                "name the template, and change the name when its words change",
            )

    @property
    def mark(self) -> str:
        """The version, and a hash of the template's words and of the rule."""
        words = "\0".join((self.ask, *self.delimiters, RULE))
        return f"{self.version}:{hashlib.blake2b(words.encode(), digest_size=6).hexdigest()}"

    def turn(self, prompt: Prompt, a: str, b: str, principle: str) -> str:
        """Return the user's turn that compares answer a, shown first, with answer b."""
        parts = {"question": asked_text(prompt), "a": a, "b": b}
        clean = {name: sanitise_text(text, self.delimiters) for name, text in parts.items()}
        return self.ask.format(principle=principle, **clean)
