"""Watching a policy while it trains: proxy, held-out reward and truth on the same prompts.

A climb that the proxy shows and the others do not is reward hacking
(docs/theory/over_optimisation.md#detectors). The watch keeps the best weights by a signal that was
not optimised, so that what is exported is not the last policy but the best one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Engine, Sampling
from tandem.errors import ConfigError, nearest_name
from tandem.judges import Judge
from tandem.machine import process_rank
from tandem.models.forward import forward_groups
from tandem.models.packed import PackedModel
from tandem.rng import Seed
from tandem.runs.events import Events

OpenedJudges = Callable[[Iterable[Group]], Iterator[Group]]
SHOWN = 3


class Validator:
    """Evaluates the policy every few rounds on fixed prompts with fixed draws.

    Args:
        prompts: tokenised evaluation prompts; the first three are shown as samples.
        engine: samples the policy; `weights` finds what it samples from in the trained module.
        judges: column -> opened judge: `proxy`, `held_out`, `truth`.
        ref: the reference, for KL.
        every: rounds between two evaluations.
        choose: the column whose best mean decides what is exported, or None for the last policy.
        keep: folder for the best weights.
        patience: evaluations in a row without a new best by `choose` after which it is enough.
    """

    def __init__(
        self,
        prompts: Groups,
        engine: Engine,
        weights: Callable[[nn.Module], nn.Module],
        judges: Mapping[str, OpenedJudges],
        ref: PackedModel,
        *,
        sampling: Sampling,
        seed: Seed,
        every: int,
        rounds: int,
        tokens: int,
        events: Events,
        choose: str | None,
        keep: Path,
        patience: int | None = None,
    ) -> None:
        self.prompts, self.engine, self.weights = prompts, engine, weights
        self.judges, self.ref, self.sampling, self.seed = judges, ref, sampling, seed
        self.every, self.rounds, self.tokens, self.events = every, rounds, tokens, events
        self.choose, self.keep, self.patience = choose, keep, patience
        self.curve: list[dict[str, float]] = []

    def __call__(self, turn: int, policy: nn.Module) -> bool:
        """Evaluate after a round, the first and the last always; True when it is enough."""
        if turn % self.every and turn != self.rounds:
            return False
        self.engine.load(self.weights(policy))
        groups = list(self.engine.sample(self.prompts, 1, self.sampling, self.seed))
        columns = self._columns(groups)
        point = {"round": float(turn)} | {k: float(np.mean(x)) for k, x in columns.items()}
        better = self.choose is not None and all(
            point[self.choose] > p[self.choose] for p in self.curve
        )
        self.curve.append(point)
        one_by_one = {k: np.round(x, 4).tolist() for k, x in columns.items()}
        self.events.log("watched", round=turn, **one_by_one)
        self.events.log("watch", **point)
        for group in groups[:SHOWN]:
            self.events.log("sample", prompt=group.prompt.text, answer=group.completions[0].text)
        if better:
            self._keep(policy)
        return self._enough(turn)

    def _enough(self, turn: int) -> bool:
        if self.choose is None or self.patience is None or turn == self.rounds:
            return False
        since = len(self.curve) - 1 - self.curve.index(self._best())
        if since < self.patience:
            return False
        self.events.log(
            "enough",
            round=turn,
            text=f"stopped after round {turn}: {self.choose} was best {since} evaluations ago",
        )
        return True

    def _best(self) -> dict[str, float]:
        """The first point with the best value of `choose`."""
        return max(self.curve, key=lambda p: p[self.choose or ""])

    def _columns(self, groups: list[Group]) -> dict[str, np.ndarray]:
        """Column -> [P] one number a prompt, from its one answer."""
        columns = {
            name: np.array([g.scores[0] for g in judge(groups) if g.scores is not None])
            for name, judge in self.judges.items()
        }
        answers = [g.completions[0] for g in groups]
        columns["kl"] = np.array(list(self._kl(groups)))
        columns["length"] = np.array([len(c.tokens) for c in answers], np.float64)
        columns["stopped"] = np.array([c.stopped for c in answers], np.float64)
        return columns

    def _kl(self, groups: list[Group]) -> Iterator[float]:
        """KL to the reference of each sample: sum of log-ratios, unbiased at temperature 1."""
        for group, reading in forward_groups(self.ref, groups, self.tokens):
            for completion, below in zip(group.completions, reading.logp or (), strict=True):
                assert completion.logp is not None
                yield float(completion.logp.sum(dtype=np.float64) - below.sum(dtype=np.float64))

    def _keep(self, policy: nn.Module) -> None:
        if process_rank() > 0:
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().clone().contiguous() for k, v in policy.state_dict().items()}
        part = self.keep / "best.part"
        save_file(state, part)
        part.replace(self.keep / "best.safetensors")

    def restore(self, policy: nn.Module) -> dict[str, float] | None:
        """Put the best weights back, and return the point of the curve they belong to."""
        best = self.keep / "best.safetensors"
        if self.choose is None or not best.exists():
            return None
        with torch.no_grad():
            policy.load_state_dict(load_file(best))
        return self._best()

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        return {"curve": [dict(p) for p in self.curve]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the curve of a run that was stopped."""
        self.curve = [dict(p) for p in state["curve"]]


@dataclass(frozen=True)
class Validation:
    """What is followed while a policy trains, on prompts that it does not train on.

    Attributes:
        prompts: tokenised held-out prompts.
        judges: (column, judge) beside `proxy`, the reward itself: `truth`, `held_out`.
        choose: the judge whose best point is exported; None exports the last policy.
        every: rounds between two evaluations.
        patience: early stopping: end after this many evaluations in a row without a new best by
            `choose`; None trains all rounds.

    Raises:
        ConfigError: `choose` names no judge, `every` or `patience` is below 1, or there is
            patience and nothing to choose by.
    """

    prompts: Groups
    judges: tuple[tuple[str, Judge], ...] = ()
    choose: str | None = None
    every: int = 4
    patience: int | None = None

    def __post_init__(self) -> None:
        known = ["proxy", *(column for column, _ in self.judges)]
        if self.choose is not None and self.choose not in known:
            raise ConfigError(
                f"validation.choose = {self.choose!r}",
                f"the policy that is exported is the best by a judge, and there are "
                f"{', '.join(known)}",
                f"name one of them, or None for the last policy.{nearest_name(self.choose, known)}",
            )
        if self.every < 1 or (self.patience is not None and self.patience < 1):
            raise ConfigError(
                f"validation.every = {self.every}, validation.patience = {self.patience}",
                "they count rounds and evaluations",
                "give 1 or more, or no patience",
            )
        if self.patience is not None and self.choose is None:
            raise ConfigError(
                f"validation.patience = {self.patience} without validation.choose",
                "it counts evaluations since the best one, and nothing says which is best",
                "name the judge to choose by: truth, or a reward model fitted to other data",
            )
