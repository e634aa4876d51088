"""Judges that are models: a reward model, and a policy's own implicit reward.

They are values; weights are opened inside the call. Groups tokenised for another tokenizer are
tokenised again from their text with the judge's own, and never read through foreign ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.record import FloatArray, Group
from tandem.errors import JudgeError
from tandem.judges import Judge, ScoringFunction, open_judge
from tandem.judges.open_preference import GroupPairs, PairProbability
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.forward import GroupOutputs, forward_groups
from tandem.models.opening import open_policy, open_scalar
from tandem.models.packed import PackedModel
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.operators.columns import scores_of
from tandem.runs.checkpoint import Checkpoint
from tandem.statistics import win_probability_of


@dataclass(frozen=True)
class RewardModel:
    """A judge that scores each completion with a trained reward model.

    The score is gain * head(last token) + bias, with the gain and bias that were fitted.

    >>> proxy = RewardModel(Checkpoint(Path("runs/mine/03-reward/artifact"), "r_phi"))
    >>> proxy.name
    'r_phi'
    >>> groups = run("judged", judge, answers, proxy)  # doctest: +SKIP

    Attributes:
        checkpoint: what `methods.reward.fit` returned.
        name: the judge's name; the checkpoint's by default.
        machine: where it runs; the `judge` stage puts its own in.
    """

    checkpoint: Checkpoint
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.checkpoint))

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Load the weights once and return the judge that keeps them.

        Raises:
            JudgeError: a preference model, which scores no single answer.
        """
        trunk = open_scalar(self.checkpoint.path, self.machine)
        kind = loading.read_kind(trunk.inner)
        if kind in (loading.PAIR, loading.EMBEDDING):
            what = "reads two answers at a time" if kind == loading.PAIR else "gives embeddings"
            raise JudgeError(
                f"{self.checkpoint} {what}",
                "a preference model says which is better, and scores neither alone",
                "use `judges.preference_model`: PreferenceModel, or Pointwise for scores",
            )
        tokenizer = load_tokenizer(self.checkpoint.path)
        gain, bias = loading.score_scale(trunk.inner)

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            for group, reading in _readings(trunk, tokenizer, groups, self.machine):
                raw = np.empty(0) if reading.score is None else reading.score.astype(np.float64)
                yield replace(group, scores=gain * raw + bias)

        return score

    def open_pairs(self) -> PairProbability:
        """Load the weights once and return sigma(r_i - r_j), each answer read once.

        Raises:
            JudgeError: as `open` does.
        """
        score = self.open()

        def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
            given, seen = itertools.tee(asked)
            for (_, pairs), group in zip(given, score(g for g, _ in seen), strict=True):
                i, j = np.array(pairs, np.int64).reshape(-1, 2).T
                r = scores_of(group, self.name) if len(i) else np.empty(0)
                yield win_probability_of(r[i] - r[j])

        return probability


@dataclass(frozen=True)
class ImplicitReward:
    """Scores with a policy's own reward: beta (log pi(y|x) - log pi_ref(y|x)), up to f(x).

    Rafailov et al. 2023, arXiv:2305.18290, section 4.

    Attributes:
        policy: the trained policy.
        reference: the policy it was trained against.
        beta: the loss's beta.
        temperature: logits of both are divided by it, above 0.
    """

    policy: Checkpoint
    reference: Checkpoint
    beta: float = 0.1
    name: str = "implicit"
    temperature: float = 1.0
    machine: Machine = field(default=Machine(), compare=False)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; raises what `open` raises."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Load both policies once and return the judge that keeps them.

        Raises:
            JudgeError: policy and reference have different tokenizers.
        """
        paths = (self.policy.path, self.reference.path)
        tokenizers = [load_tokenizer(p) for p in paths]
        if len({tokenizer_hash(t) for t in tokenizers}) > 1:
            raise JudgeError(
                f"{self.policy} and {self.reference} have different tokenizers",
                "the implicit reward is a ratio of probabilities of the same tokens",
                "give the reference that the policy was trained against",
            )
        pi, ref = (open_policy(p, self.machine) for p in paths)
        pi.temperature = ref.temperature = self.temperature

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            mine, theirs = itertools.tee(groups)
            above = _readings(pi, tokenizers[0], mine, self.machine)
            below = _readings(ref, tokenizers[1], theirs, self.machine)
            for (group, a), (_, b) in zip(above, below, strict=True):
                yield replace(group, scores=self.beta * (_sums(a) - _sums(b)))

        return score


@dataclass(frozen=True)
class Shaped:
    """Scores with a reward minus the price of leaving the reference.

    r(x, y) - beta (log pi(y|x) - log pi_ref(y|x)): RAFT's reward (Dong et al. 2023,
    arXiv:2304.06767, section 3), and the sample form of every KL-regularised objective.

    Attributes:
        judge: the scoring judge.
        policy: pi, whose answers are scored.
        reference: pi_ref.
        beta: KL coefficient.
        temperature: at which the answers were sampled, above 0: both policies are read at it.
    """

    judge: Judge
    policy: Checkpoint
    reference: Checkpoint
    beta: float
    name: str = "shaped"
    temperature: float = 1.0
    machine: Machine = field(default=Machine(), compare=False)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; raises what `open` raises."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Load all three models once and return the judge that keeps them.

        Raises:
            JudgeError: policy and reference have different tokenizers, or (when it judges) the
                judge writes no scores.
        """
        reward = open_judge(self.judge, self.machine)
        price = ImplicitReward(
            self.policy,
            self.reference,
            self.beta,
            temperature=self.temperature,
            machine=self.machine,
        ).open()

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            mine, theirs = itertools.tee(groups)
            for group, cost in zip(reward(mine), price(theirs), strict=True):
                if group.scores is None or cost.scores is None:
                    raise JudgeError(
                        f"the judge `{self.judge.name}` wrote no scores for group `{group.id}`",
                        "a price is taken off a number, and preferences alone are none",
                        "use a scoring judge: a reward model, a programmatic truth",
                    )
                yield replace(group, scores=group.scores - cost.scores)

        return score


def reward_judge(reward: Checkpoint | Judge) -> Judge:
    """Return the judge of a reward: the folder of a reward model is opened, a judge is one."""
    return RewardModel(reward) if isinstance(reward, Checkpoint) else reward


def reward_models(judge: Any) -> tuple[Checkpoint, ...]:
    """The reward models that a judge asks: its own, or those of the judges that it is made of."""
    if isinstance(judge, RewardModel):
        return (judge.checkpoint,)
    parts = (*getattr(judge, "members", ()), getattr(judge, "judge", None))
    return tuple(c for part in parts if part is not None for c in reward_models(part))


def _readings(
    trunk: PackedModel, tokenizer: Any, groups: Iterable[Group], machine: Machine
) -> Iterator[tuple[Group, GroupOutputs]]:
    """Read the groups in the judge's own tokens, and hand back the groups as they came."""
    given, seen = itertools.tee(groups)
    own = tokenise(seen, tokenizer)
    for group, (_, reading) in zip(given, forward_groups(trunk, own, machine.tokens), strict=True):
        yield group, reading


def _sums(reading: GroupOutputs) -> FloatArray:
    return np.array([x.sum(dtype=np.float64) for x in reading.logp or ()])
