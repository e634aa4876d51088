"""Model text on a page: hostile input that has to stay readable.

Markdown is read by markdown-it-py with HTML, links and images off, so they stay as the characters
that were written; then nh3 lets a short list of tags through. Characters that change the order or
the colour of what stands around them (bidi overrides, terminal escapes) are shown by name.
"""

from __future__ import annotations

import difflib
import functools
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

MOST_SHOWN = 100_000
"""Characters of one text on the page; the rest is on a page of its own, as plain text."""
MOST_FORMATTED = 20_000
MOST_COMPARED = 4_000
TURNS_SHOWN = 6

_TAGS = set("p br hr em strong s code pre blockquote ul ol li table thead tbody tr th td".split())
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\ufeff"
    "\U000e0000-\U000e007f]"
)


def visible_text(text: str) -> str:
    """Return text in which nothing is hidden and nothing reorders its surroundings."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub(_name_of, plain)


def _name_of(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"\u27e6U+{code:04X}\u27e7"


@functools.cache
def _markdown() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(
        ["table", "strikethrough"]
    )
    return reader.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])


@functools.lru_cache(maxsize=2048)
def render_text(text: str) -> Markup:
    """Return a text as safe HTML: Markdown where it is short enough, else its characters."""
    shown = visible_text(text[:MOST_SHOWN])
    if len(shown) > MOST_FORMATTED or _longest_line(shown) > MOST_FORMATTED:
        return Markup(f'<p class="plain">{html.escape(shown)}</p>')
    made = _markdown().render(shown)
    # a heading inside an answer is no heading of the page
    made = re.sub(r"<(/?)h[1-6]>", lambda m: "</strong></p>" if m[1] else "<p><strong>", made)
    made = made.replace("<th></th>", "<td></td>")
    return Markup(nh3.clean(made, tags=_TAGS, attributes={}, link_rel=None))


def _longest_line(text: str) -> int:
    return max(map(len, text.split("\n")), default=0)


def is_cut(text: str) -> bool:
    """Whether only the beginning of a text is on the page."""
    return len(text) > MOST_SHOWN


def is_right_to_left(text: str) -> bool:
    """Whether the first letter of a text is written from right to left."""
    letter = next((c for c in text if c.isalpha()), "")
    return "\u0590" <= letter <= "\u08ff" or "\ufb1d" <= letter <= "\ufeff"


def render_turns(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a prompt as turns: who speaks, and the rendered text."""
    messages = question["messages"]
    if not messages:
        return [{"role": "Prompt", "html": render_text(question["text"]), "cut": False}]
    return [_turn(m) for m in messages]


def render_answer(text: str, turns: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return an answer as turns; most have one."""
    if turns:
        return [_turn(t) for t in turns]
    return [{"role": "", "html": render_text(text), "cut": is_cut(text)}]


_NAMES = {"user": "Person", "assistant": "Assistant", "system": "System", "tool": "Tool result"}


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    said = message.get("content")
    text = said if isinstance(said, str) else _parts(said)
    if message.get("tool_calls"):
        calls = json.dumps(message["tool_calls"], indent=1, ensure_ascii=False)
        text = f"{text}\n\n```\n{calls}\n```".strip()
    role = str(message.get("role", ""))
    return {
        "role": _NAMES.get(role, visible_text(role)[:40]),
        "html": render_text(text),
        "cut": is_cut(text),
    }


def _parts(said: Any) -> str:
    if said is None:
        return ""
    if isinstance(said, list) and all(isinstance(p, Mapping) for p in said):
        return "\n\n".join(str(p.get("text", f"[{p.get('type', 'part')}]")) for p in said)
    return json.dumps(said, ensure_ascii=False)


def render_differences(first: str, second: str) -> tuple[Markup, Markup]:
    """Return two texts in which the words that only one of them has are marked.

    Only the first characters are compared: the time of a comparison grows with the square.
    """
    a, b = (re.findall(r"\s+|\S+", visible_text(t[:MOST_COMPARED])) for t in (first, second))
    steps = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    left = Markup("").join(_marked(a[i:j], tag != "equal") for tag, i, j, _, _ in steps)
    right = Markup("").join(_marked(b[i:j], tag != "equal") for tag, _, _, i, j in steps)
    frame = Markup('<p class="plain">{}</p>')
    return frame.format(left), frame.format(right)


def _marked(words: Sequence[str], differs: bool) -> Markup:
    text = html.escape("".join(words))
    return Markup(f"<mark>{text}</mark>" if differs and text else text)
