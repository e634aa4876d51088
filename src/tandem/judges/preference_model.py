"""Judges that are a preference model: preferences, or a score made of them.

Two kinds of folders are read, and each says which it is. A model of two arguments reads (x, y, y')
in both orders (`tandem.data.pair_sequences`): one pass a pair. A scalar plus cyclic model reads
each answer once, and compares scores and embeddings: one pass an answer. Either way the
probabilities of (y, y') and (y', y) add up to 1. Groups tokenised for another tokenizer are
tokenised again from their text with the model's own. A sequence longer than the model's context
is refused, never cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from tandem.data.groups import Groups
from tandem.data.pair_sequences import (
    Pair,
    PairSeparator,
    both_orders,
    longest_sequence,
    pair_log_odds,
)
from tandem.data.record import Completion, FloatArray, Group, Preference
from tandem.errors import ConfigError, JudgeError
from tandem.judges import ScoringFunction
from tandem.judges.open_preference import GroupPairs, PairProbability
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.folders import context_length
from tandem.models.forward import forward_groups
from tandem.models.opening import open_scalar
from tandem.models.packed import PackedModel
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.operators.columns import preferences_of
from tandem.runs.checkpoint import Checkpoint
from tandem.statistics import win_probability_of

Answers = tuple[Completion, ...]
CLIP = (0.01, 0.99)
"""A saturated rho would let one baseline decide the scale of a prompt.

See docs/theory/rejection_sampling.md#pieces.
"""


@dataclass(frozen=True)
class PreferenceModel:
    """A judge that compares completions in pairs with a trained preference model.

    It writes `preferences` with p = rho(x, y_i, y_j), the chance that completion i is better.

    >>> rho = PreferenceModel(Checkpoint(Path("runs/mine/03-rho/artifact"), "rho"), pairs="all")
    >>> rho.name
    'rho'
    >>> groups = run("compared", judge, answers, rho)  # doctest: +SKIP

    Attributes:
        checkpoint: what `methods.preference.fit` or `methods.cyclic_preference.fit` returned.
        pairs: `neighbours` compares (0, 1), (2, 3), ...; `all` every i < j; `given` those that
            the group has preferences for, which it labels anew.
        hard: round the label to 1 or 0, as a click would be; equal texts stay a tie, .5.
        name: the judge's name; the checkpoint's by default.
        machine: where it runs; the `judge` stage puts its own in.
    """

    compares: ClassVar[bool] = True
    checkpoint: Checkpoint
    pairs: Literal["neighbours", "all", "given"] = "neighbours"
    hard: bool = False
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.checkpoint))
        if self.pairs not in ("neighbours", "all", "given"):
            raise ConfigError(
                f"PreferenceModel(pairs={self.pairs!r})",
                "it compares neighbours, (0, 1), (2, 3), ..., all pairs, or those that are given",
                'give pairs="neighbours", pairs="all" or pairs="given"',
            )

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `preferences`; raises what `open` raises."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Load the weights once and return the judge that keeps them.

        Raises:
            JudgeError: not a preference model, or (when it judges) a group with one completion,
                or a sequence longer than the model can read.
            DataError: `given`, and a group without preferences.
        """
        reader = _open_reader(self.checkpoint, self.machine)

        def compare(groups: Iterable[Group]) -> Iterator[Group]:
            given, seen = itertools.tee(groups)
            asked = ((g, self._met(g)) for g in reader.own(seen))
            for group, f in zip(given, reader(asked), strict=True):
                votes = zip(self._met(group), win_probability_of(f).tolist(), strict=True)
                labels = ((i, j, self._label(group, i, j, p)) for (i, j), p in votes)
                written = tuple(Preference(i, j, p, by=self.name) for i, j, p in labels)
                yield replace(group, preferences=written)

        return compare

    def open_pairs(self) -> PairProbability:
        """Load the weights once and return how likely one answer is preferred to another.

        Raises:
            JudgeError: as `open` does.
        """
        reader = _open_reader(self.checkpoint, self.machine)

        def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
            groups, pairs = itertools.tee(asked)
            own = reader.own(group for group, _ in groups)
            yield from map(
                win_probability_of,
                reader((g, pair) for g, (_, pair) in zip(own, pairs, strict=True)),
            )

        return probability

    def _met(self, group: Group) -> Sequence[Pair]:
        _several(group, 2, self.name)
        if self.pairs == "given":
            return [(v.i, v.j) for v in preferences_of(group, self.name)]
        if self.pairs == "all":
            return list(itertools.combinations(range(len(group)), 2))
        return [(i, i + 1) for i in range(0, len(group) - 1, 2)]

    def _label(self, group: Group, i: int, j: int, p: float) -> float:
        if not self.hard:
            return p
        same = group.completions[i].text == group.completions[j].text
        return 0.5 if same else 0.5 + float(np.sign(p - 0.5)) / 2


@dataclass(frozen=True)
class Pointwise:
    """Scores answers with a preference model: r(x, y) = mean_b logit rho(x, y, y_b).

    RSO, arXiv:2309.06657 section 3.1, with rho clipped to [.01, .99] and the mean over a few
    random answers y_b of pi_sft where the paper takes one
    (docs/theory/rejection_sampling.md#pieces).

    Attributes:
        checkpoint: what `methods.preference.fit` or `methods.cyclic_preference.fit` returned.
        baselines: groups whose completions are the y_b, by prompt id: pi_sft's decodes, `sample`d
            once. None takes the first `first` completions of each group itself, which is right
            where they are random decodes of pi_sft; an answer against itself counts 0.
        first: how many of its own completions, without `baselines`.
        name: the judge's name; the checkpoint's by default.
        machine: where it runs; the `judge` stage puts its own in.
    """

    checkpoint: Checkpoint
    baselines: Groups | None = None
    first: int = 1
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"{self.checkpoint} pointwise")
        if self.baselines is not None and self.first != 1:
            raise ConfigError(
                f"Pointwise(first={self.first}) with baselines",
                "given baselines are all used, and none of the group's own completions",
                "leave one of the two out",
            )
        if self.first < 1:
            raise ConfigError(
                f"Pointwise(first={self.first})",
                "an answer is scored against one or more baselines",
                "give 1, or a few",
            )

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; raises what `open` raises."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Load the weights and the baselines once and return the judge that keeps them.

        Raises:
            JudgeError: not a preference model, or (when it judges) a prompt without baselines, or
                a sequence longer than the model can read.
        """
        reader = _open_reader(self.checkpoint, self.machine)
        others = {g.id: g.completions for g in reader.own(self.baselines or ())}
        low, high = (math.log(p / (1 - p)) for p in CLIP)

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            given, seen = itertools.tee(groups)
            asked = (self._asked(g, others) for g in reader.own(seen))
            for group, f in zip(given, reader(asked), strict=True):
                n = len(group)
                table = np.clip(f, low, high).reshape(n, -1) if n else np.empty((0, 1))
                yield replace(group, scores=table.mean(axis=1))

        return score

    def _asked(self, group: Group, others: Mapping[str, Answers]) -> GroupPairs:
        """Every answer against every baseline."""
        n = len(group)
        if self.baselines is None:
            _several(group, max(2, self.first), self.name)
            return group, list(itertools.product(range(n), range(self.first)))
        found = others.get(group.id, ())
        if not found:
            raise JudgeError(
                f"`{self.name}` has no baseline for prompt `{group.id}`",
                "an answer's score is its mean log-odds against baselines to the same prompt",
                "sample one answer of pi_sft or a few to every prompt, or leave `baselines` out",
            )
        both = Group(group.prompt, group.completions + found)
        return both, list(itertools.product(range(n), range(n, n + len(found))))


@dataclass(frozen=True, eq=False)
class _Reader:
    """An opened preference model: groups in, log-odds of the pairs asked for out."""

    reads: ClassVar[str]
    trunk: PackedModel
    tokenizer: object
    limit: int
    tokens: int
    checkpoint: Checkpoint

    def own(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups in the model's own tokens."""
        return tokenise(groups, self.tokenizer)

    def __call__(self, asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
        """Yield [M] log-odds that the first is better, for the pairs asked of each group."""
        raise NotImplementedError

    def _whole(self, group: Group) -> Group:
        if longest_sequence(group) > self.limit:
            raise JudgeError(
                f"prompt `{group.id}` with {self.reads} has {longest_sequence(group)} tokens",
                f"{self.checkpoint} reads {self.limit}, and nothing is cut in silence",
                "sample shorter answers, or drop such prompts with `tandem.encode`",
            )
        return group


class _PairReader(_Reader):
    """Reads two answers as one sequence, in both orders."""

    reads = "two of its answers"

    def __call__(self, asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
        """Yield [M] log-odds that the first is better, for the pairs asked of each group."""
        seam = PairSeparator.of(self.tokenizer)
        derived = (self._whole(both_orders(g, pairs, seam)) for g, pairs in asked)
        for _, reading in forward_groups(self.trunk, derived, self.tokens, logp=False):
            yield np.empty(0) if reading.score is None else pair_log_odds(reading.score)


class _EmbeddingReader(_Reader):
    """Reads each answer once: a score and an embedding."""

    reads = "one of its answers"

    def __call__(self, asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
        """Yield [M] log-odds that the first is better, for the pairs asked of each group."""
        given, seen = itertools.tee(asked)
        groups = (self._whole(group) for group, _ in seen)
        read = forward_groups(self.trunk, groups, self.tokens, logp=False)
        for (_, pairs), (_, reading) in zip(given, read, strict=True):
            if reading.score is None or reading.embedding is None or not len(pairs):
                yield np.empty(0)
                continue
            i, j = np.array(pairs).T
            yield cyclic_log_odds_matrix(reading.score, reading.embedding)[i, j]


def cyclic_log_odds_matrix(score: FloatArray, embedding: FloatArray) -> FloatArray:
    """Return [n, n] log-odds of a scalar plus cyclic model; antisymmetric.

    Args:
        score: [n] rewards.
        embedding: [n, 2k]; components 2k and 2k + 1 turn against each other.
    """
    s, e = score.astype(np.float64), embedding.astype(np.float64)
    turned = e[:, 0::2] @ e[:, 1::2].T
    return s[:, None] - s[None, :] + turned - turned.T


def _open_reader(checkpoint: Checkpoint, machine: Machine) -> _Reader:
    """Open a folder by the kind that it says it is."""
    trunk = open_scalar(checkpoint.path, machine)
    kinds = {loading.PAIR: _PairReader, loading.EMBEDDING: _EmbeddingReader}
    kind = loading.read_kind(trunk.inner)
    if kind not in kinds:
        raise JudgeError(
            f"{checkpoint} scores one answer at a time",
            "a preference model reads two answers as one sequence, or gives embeddings, and was "
            "fitted so",
            "use `RewardModel`, or a checkpoint of `methods.preference` or "
            "`methods.cyclic_preference`",
        )
    tokenizer, limit = load_tokenizer(checkpoint.path), context_length(checkpoint.path)
    return kinds[kind](trunk, tokenizer, limit, machine.tokens, checkpoint)


def _several(group: Group, least: int, name: str) -> None:
    if 0 < len(group) < least:
        raise JudgeError(
            f"`{name}` was given {len(group)} answer(s) to prompt `{group.id}`",
            f"it compares at least {least} answers to one prompt",
            "sample more answers, or give `Pointwise` baselines",
        )
