"""What a model is trained on, made visible: every token, its borders, and where the loss falls."""

from __future__ import annotations

from typing import Any

import numpy as np

from tandem.data.record import Completion, Group

_DIM, _TRAINED, _UNTRAINED, _BOLD, _OFF = "\033[2m", "\033[32m", "\033[33m", "\033[1m", "\033[0m"
LEGEND = "borders |, prompt plain, [trained] in brackets, (not trained) in parentheses"
COLOURED_LEGEND = (
    f"borders |, {_DIM}prompt{_OFF}, {_TRAINED}trained{_OFF}, {_UNTRAINED}not trained{_OFF}"
)


def render_group(group: Group, tokenizer: Any, *, colour: bool = True) -> str:
    """Show an encoded group token by token.

    Args:
        group: a group with tokens.
        tokenizer: the one that encoded it.
        colour: ANSI colours; without them trained tokens stand in [brackets] and tokens that a
            mask leaves out in (parentheses).

    Returns:
        the prompt's line, then one line a completion, each headed by what a judge said of it.
    """
    lines = [_heading(f"prompt {group.id}, {len(group.prompt.tokens)} tokens", colour)]
    lines.append(_paint(_pieces(group.prompt.tokens, tokenizer), _DIM if colour else "", ""))
    for k, completion in enumerate(group.completions):
        said = "".join(f", {words}" for words in judgment_line(group, k))
        count = len(completion.tokens)
        lines.append(_heading(f"completion {k}, {count} tokens{said}", colour))
        lines.append(_completion(completion, tokenizer, colour))
    return "\n".join(lines)


def _completion(completion: Completion, tokenizer: Any, colour: bool) -> str:
    trained = completion.mask
    if trained is None:
        trained = np.ones(len(completion.tokens), np.bool_)
    pieces = _pieces(completion.tokens, tokenizer)
    out: list[str] = []
    start = 0
    for end in [*(np.flatnonzero(np.diff(trained)) + 1), len(pieces)]:
        run, counts = pieces[start:end], bool(trained[start]) if len(trained) else True
        ink = (_TRAINED if counts else _UNTRAINED) if colour else ""
        out.append(_paint(run, ink, "" if colour else ("[]" if counts else "()")))
        start = int(end)
    return "".join(out)


def _paint(pieces: list[str], ink: str, ends: str) -> str:
    text = "|".join(pieces)
    if ends:
        return f"{ends[0]}{text}{ends[1]}"
    return f"{ink}{text}{_OFF}" if ink else text


def _pieces(tokens: Any, tokenizer: Any) -> list[str]:
    """Return each token as one line of text; control characters are written as escapes."""
    names = [str(n) for n in tokenizer.convert_ids_to_tokens([int(t) for t in tokens])]
    texts = [_decoded(int(t), name, tokenizer) for t, name in zip(tokens, names, strict=True)]
    return [_printable(t) for t in texts]


def _decoded(token: int, name: str, tokenizer: Any) -> str:
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return name
    return f" {text}" if name.startswith("▁") and not text.startswith(" ") else text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def judgment_line(group: Group, k: int) -> list[str]:
    """Say how often a completion was preferred, and its score."""
    words: list[str] = []
    votes = [v for v in group.preferences if k in (v.i, v.j)]
    wins = sum(v.winner == k for v in votes if v.p != 0.5)
    if votes:
        words.append(f"preferred in {wins} of {len(votes)}")
    if group.scores is not None:
        words.append(f"score {float(group.scores[k]):g}")
    return words


def _heading(text: str, colour: bool) -> str:
    return f"{_BOLD}{text}{_OFF}" if colour else f"-- {text}"
