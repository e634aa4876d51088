"""`encode`: groups of text -> groups with tokens, loss masks, and counts of what was lost."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.cached_groups import keep_groups
from tandem.data.chat.spans import AnswerText, answer_text, prompt_text
from tandem.data.chat.template import TemplateRefused, tools_of
from tandem.data.chat.tokens import Ids, TokenizerTraits, tokenizer_hash
from tandem.data.chat.transcripts import is_whole_text
from tandem.data.chat.truncate import TRUNCATIONS, Counts, Truncation, fit_to_length
from tandem.data.groups import Groups
from tandem.data.record import BoolArray, Completion, Group
from tandem.errors import ConfigError, DataError, ModelError

GROUPS_PER_TASK = 256
"""Groups that are encoded by one call of the tokenizer, and by one worker at a time."""

ENCODING_VERSION = "4"
"""Part of the cache's key: raised when the same text becomes other tokens, or others are kept."""


@dataclass(frozen=True)
class Encoded:
    """Groups with tokens, and what became of the others."""

    groups: Groups
    counts: Counts


@dataclass(frozen=True)
class Encoder:
    """How to encode; a value that worker processes receive."""

    tokens: TokenizerTraits
    max_length: int | None
    truncation: Truncation

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """Encode a chunk of groups."""
        counts = Counts()
        laid = [_lay_out(group, self.tokens, counts) for group in groups]
        ids = _Ids.of([each for each in laid if each is not None], self.tokens)
        full = [_with_tokens(each, ids, self.tokens, counts) for each in laid if each is not None]
        bos = len(self.tokens.bos)
        fitted = [
            fit_to_length(
                group, _bos(group, bos, self.tokens), self.max_length, self.truncation, counts
            )
            for group in full
        ]
        return [group for group in fitted if group is not None], counts


def encode_groups(
    groups: Groups,
    tokenizer: Any,
    *,
    max_length: int | None,
    truncation: Truncation = "drop",
    workers: int = 0,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Tokenise prompts and completions.

    A conversation is rendered and tokenised as a whole, and its completion is what stands behind
    the verified prefix that is its prompt; every assistant turn in it is trained on
    (`Completion.mask`), its end of turn included. Plain text is tokenised as prompt and
    completion apart, with one BOS if the tokenizer adds one. A completion that stopped ends in
    its end-of-turn or EOS token, once.

    Args:
        groups: texts and messages; tokens that are there are made anew.
        tokenizer: a Hugging Face tokenizer.
        max_length: longest prompt + completion in tokens; None for no limit.
        truncation: `drop` and count what is longer (a group keeps the completions that fit, a
            compared one if a comparison is left); `keep-start` cuts completions at their end, all
            of a compared group alike; `keep-end` cuts the prompt at its start. Tokens are cut,
            texts stay whole.
        workers: worker processes; 0 encodes in this one.
        cache: a folder; the result is kept there under a hash of tokenizer, data and settings.
        progress: called with (groups done, groups in all).

    Raises:
        ConfigError: a setting is out of range.
        ModelError: the tokenizer is none, has no EOS, or its template is not prefix-preserving.
        DataError: nothing is left.
    """
    encoder = _encoder(tokenizer, max_length, truncation)
    if cache is None:
        counts = Counts()
        encoded = Groups.of(_encoded(groups, encoder, workers, counts, progress))
        return Encoded(encoded, counts)
    tokens = encoder.tokens
    own = [tokenizer_hash(tokenizer), type(tokenizer).__name__, tokens.bos, tokens.written_date]
    key = [ENCODING_VERSION, *own, groups.hash, max_length, truncation]
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()
    path = cache / f"encoded-{name}.parquet"
    counts = Counts()
    stream = _encoded(groups, encoder, workers, counts, progress)
    encoded, kept = keep_groups(path, stream, lambda: asdict(counts))
    return Encoded(encoded, Counts(**kept))


def _encoder(tokenizer: Any, max_length: int | None, truncation: Truncation) -> Encoder:
    if not callable(tokenizer) or not hasattr(tokenizer, "apply_chat_template"):
        raise ModelError(
            f"the tokenizer is {tokenizer!r:.80} ({type(tokenizer).__name__})",
            "text becomes tokens by the model's own tokenizer, and there is none",
            "save one beside the model (tokenizer.save_pretrained), or name another",
        )
    if truncation not in TRUNCATIONS:
        raise ConfigError(
            f"truncation = {truncation!r}",
            f"what does not fit is treated in one of the ways {', '.join(TRUNCATIONS)}",
            "give one of them",
        )
    if max_length is not None and max_length < 2:
        raise ConfigError(
            f"max_length = {max_length}",
            "a prompt and a completion need at least one token each",
            "give the model's context length, or less",
        )
    tokens = TokenizerTraits(tokenizer)
    _ = tokens.eos
    return Encoder(tokens, max_length, truncation)


def _encoded(
    groups: Groups,
    encoder: Encoder,
    workers: int,
    counts: Counts,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Group]:
    chunks = _chunks(groups)
    parts = _in_processes(chunks, encoder, workers) if workers else map(encoder, chunks)
    for kept, part in parts:
        counts.add(part)
        if progress is not None:
            progress(counts.groups, len(groups))
        yield from kept
    if not counts.kept:
        raise _nothing(counts, encoder.max_length)


def _chunks(groups: Iterable[Group]) -> Iterator[list[Group]]:
    stream = iter(groups)
    while chunk := list(itertools.islice(stream, GROUPS_PER_TASK)):
        yield chunk


_worker: Encoder | None = None


def _start(encoder: Encoder) -> None:
    global _worker  # a worker process has one encoder for its life
    _worker = encoder


def _work(chunk: list[Group]) -> tuple[list[Group], Counts]:
    assert _worker is not None
    return _worker(chunk)


def _in_processes(
    chunks: Iterable[list[Group]], encoder: Encoder, workers: int
) -> Iterator[tuple[list[Group], Counts]]:
    """Encode chunks in worker processes, in order, at most two chunks waiting for each worker."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (encoder,)) as pool:
        waiting: deque[Future[tuple[list[Group], Counts]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class _Laid:
    group: Group
    prompt: str
    answers: tuple[AnswerText, ...]
    templated: bool

    @property
    def is_one_text(self) -> bool:
        """True where prompt and answer are tokenised as one."""
        return self.templated or is_whole_text(self.group.prompt)


def _lay_out(group: Group, tokens: TokenizerTraits, counts: Counts) -> _Laid | None:
    messages = group.prompt.messages
    try:
        prompt = prompt_text(group, tokens)
        answers = tuple(answer_text(group, c, prompt, tokens) for c in group.completions)
    except TemplateRefused as reason:
        counts.groups += 1
        counts.completions += len(group)
        counts.preferences += len(group.preferences)
        counts.dropped[str(reason)] = counts.dropped.get(str(reason), 0) + 1
        return None
    if tools_of(group.prompt):
        counts.tools_unread += not (tokens.templated and tokens.template.takes_tools)
    counts.transcripts += messages is not None and not tokens.templated
    shown = prompt or "".join(a.text for a in answers)  # a whole text has no prompt
    rendered = any(name in shown for name in tokens.specials)
    counts.plain += messages is None and tokens.templated and not rendered
    return _Laid(group, prompt, answers, messages is not None and tokens.templated)


@dataclass(frozen=True, slots=True)
class _Ids:
    """Texts of a chunk with their ids: as they stand, and as continuations."""

    standing: dict[str, Ids]
    continuing: dict[str, Ids]

    @classmethod
    def of(cls, laid: Sequence[_Laid], tokens: TokenizerTraits) -> _Ids:
        whole = [x.prompt + a.text for x in laid if x.is_one_text for a in x.answers]
        standing = list(dict.fromkeys([x.prompt for x in laid] + whole))
        pieces = [
            text
            for x in laid
            for a in x.answers
            if not x.is_one_text or len(a.pieces) > 1
            for text, _ in a.pieces
        ]
        pieces = list(dict.fromkeys(pieces))
        return cls(
            dict(zip(standing, tokens.plain(standing), strict=True)),
            dict(zip(pieces, tokens.continuing(pieces), strict=True)),
        )


def _with_tokens(laid: _Laid, ids: _Ids, tokens: TokenizerTraits, counts: Counts) -> Group:
    start = ids.standing[laid.prompt]
    if not laid.templated and start[: len(tokens.bos)] != tokens.bos:
        start = [*tokens.bos, *start]
    if not start and not is_whole_text(laid.group.prompt):
        raise DataError(
            f"group {laid.group.id}: the prompt {laid.prompt[:40]!r} has no tokens",
            "the first token of a completion is predicted from the last one of its prompt",
            "give a prompt, or a tokenizer that adds a BOS token",
        )
    completions: list[Completion] = []
    for completion, answer in zip(laid.group.completions, laid.answers, strict=True):
        whole = _behind(laid, answer, ids)
        out, mask = _joined(answer, whole, ids, tokens)
        counts.merged += laid.templated and out != whole
        completions.append(_ended(completion, answer, out, mask, tokens))
    if not start:  # a whole text without BOS: nothing predicts its first token
        start = [int(t) for c in completions for t in c.tokens[:1]] or [tokens.eos]
        completions = [replace(c, tokens=c.tokens[1:]) for c in completions]
    prompt = replace(laid.group.prompt, text=laid.prompt, tokens=np.array(start, np.int32))
    return replace(laid.group, prompt=prompt, completions=tuple(completions))


def _behind(laid: _Laid, answer: AnswerText, ids: _Ids) -> Ids | None:
    """Return what stands behind the prompt in the whole conversation's tokens.

    None if the conversation was not encoded as a whole, or if one token spans both.
    """
    if not laid.is_one_text:
        return None
    start, whole = ids.standing[laid.prompt], ids.standing[laid.prompt + answer.text]
    return whole[len(start) :] if whole[: len(start)] == start else None


def _joined(
    answer: AnswerText, whole: Ids | None, ids: _Ids, tokens: TokenizerTraits
) -> tuple[Ids, BoolArray | None]:
    if whole is not None and len(answer.pieces) == 1:
        return whole, None
    parts = [_piece(text, ids, tokens) for text, _ in answer.pieces]
    flags = np.array([trained for _, trained in answer.pieces], np.bool_)
    return list(itertools.chain.from_iterable(parts)), np.repeat(flags, [len(p) for p in parts])


def _ended(
    completion: Completion,
    answer: AnswerText,
    out: Ids,
    mask: BoolArray | None,
    tokens: TokenizerTraits,
) -> Completion:
    """Return the completion with its tokens; the EOS is added once, and trained on."""
    if completion.stopped and not answer.closed and out[-1:] != [tokens.eos]:
        out = [*out, tokens.eos]
        mask = None if mask is None else np.append(mask, True)
    mask = None if mask is None or mask.all() else mask
    return replace(completion, tokens=np.array(out, np.int32), mask=mask, logp=None)


def _piece(text: str, ids: _Ids, tokens: TokenizerTraits) -> Ids:
    found = ids.continuing.get(text)
    return tokens.continuing([text])[0] if found is None else found


def _bos(group: Group, length: int, tokens: TokenizerTraits) -> int:
    """Number of BOS ids at the head of this prompt, which no cut may take away."""
    if list(group.prompt.tokens[:length]) == tokens.bos:
        return length
    return int(group.prompt.tokens[0] == tokens.tokenizer.bos_token_id)


def _nothing(counts: Counts, max_length: int | None) -> DataError:
    if not counts.groups:
        return DataError(
            "there are no groups to turn into tokens",
            "what came before kept none of its prompts or answers",
            "look at what the stages before printed; longer answers (--sampling.max_tokens), more "
            "samples or a lower threshold leave more",
        )
    reasons = "; ".join(f"{n} x {why}" for why, n in counts.dropped.items())
    if not any("tokens" in why for why in counts.dropped):
        return DataError(
            f"none of {counts.groups} groups is left: {reasons or 'there were none'}",
            "a conversation that the chat template does not take cannot be trained on",
            "give --model a model whose chat template takes it, or mend its chat_template.jinja",
        )
    return DataError(
        f"none of {counts.groups} groups is left: {reasons or 'there were none'}",
        "what does not fit into the model's context is dropped, never cut in silence",
        f"raise --data.max_length (now {max_length}), or give --data.truncation keep-start or "
        "keep-end",
    )
