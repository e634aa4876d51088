"""Validation during on-policy training: the curve, early stopping, and the best weights kept.

A judge that was not optimised says which policy is best, so what is saved is not the last policy
but the best one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tandem.data.record import FloatArray, Group
from tandem.engines import Engine
from tandem.errors import ConfigError
from tandem.judges import open_judge
from tandem.machine import process_rank
from tandem.models.forward import forward_groups
from tandem.models.quantised import what_is_trained
from tandem.runs.context import StageContext
from tandem.statistics import best_index, is_out_of_patience
from tandem.training.rollout_models import RolloutModels, actor_of
from tandem.training.rollouts import RolloutConfig
from tandem.training.validation import Validation, log_samples, score_policy


class Validator:
    """Validates the policy every few rounds, on fixed prompts with fixed draws.

    Args:
        validation: the prompts, the judges, and which of them chooses the best policy.
        models: the reward is validated as `proxy`, if it scores; the KL is measured to the
            reference.
        engine: samples the policy.
        rollout: how it is sampled, and how many rounds there are.
        ctx: the stage; the best weights are kept in its scratch folder.
    """

    def __init__(
        self,
        validation: Validation,
        models: RolloutModels,
        engine: Engine,
        rollout: RolloutConfig,
        ctx: StageContext,
    ) -> None:
        self.validation, self.models, self.engine = validation, models, engine
        self.rollout, self.ctx = rollout, ctx
        opened = {column: open_judge(j, ctx.machine) for column, j in validation.judges}
        proxy = {} if models.compares else {"proxy": models.reward}
        self.judges = {**proxy, **opened}
        if validation.choose is not None and validation.choose not in self.judges:
            raise ConfigError(
                f"validation.choose = {validation.choose!r}",
                "the reward of this run compares answers and scores none, so no score of its own "
                "follows single answers",
                "choose by a judge that scores, of `Validation.judges`, or None for the last "
                "policy",
            )
        self.seed, self.keep = ctx.seed.at("watch"), ctx.scratch / "best"
        self.curve: list[dict[str, float]] = []

    def __call__(self, turn: int, policy: nn.Module) -> bool:
        """Validate after a round, the first and the last always; True when it is enough."""
        if turn % self.validation.every and turn != self.rollout.shape.rounds:
            return False
        self.engine.load(actor_of(policy))
        prompts, sampling = self.validation.prompts, self.rollout.sampling
        answers = list(self.engine.sample(prompts, 1, sampling, self.seed))
        self._log(turn, answers)
        if self.validation.choose is not None and self._best() == len(self.curve) - 1:
            self._keep_weights(policy)
        return self._should_stop(turn)

    def restore_best(self, policy: nn.Module) -> None:
        """Put the best weights back, and log the point of the curve that they belong to.

        Where no judge chooses, the policy stays as it is.
        """
        weights = self.keep / "best.safetensors"
        if self.validation.choose is None or not weights.exists():
            return
        with torch.no_grad():
            what_is_trained(policy).load_state_dict(load_file(weights))
        best = self.curve[self._best()]
        said = f"{self.validation.choose} likes it best"
        text = f"the policy after round {best['round']:.0f} is kept: {said}"
        self.ctx.events.log("chosen", text=text, **best)

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        return {"curve": [dict(p) for p in self.curve]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the curve of a run that was stopped."""
        self.curve = [dict(p) for p in state["curve"]]

    def _log(self, turn: int, answers: list[Group]) -> None:
        """Add a point to the curve: each column's mean over the prompts."""
        columns = self._columns(answers)
        point = {"round": float(turn)} | {k: float(np.mean(x)) for k, x in columns.items()}
        self.curve.append(point)
        one_by_one = {k: np.round(x, 4).tolist() for k, x in columns.items()}
        self.ctx.events.log("watched", round=turn, **one_by_one)
        self.ctx.events.log("watch", **point)
        log_samples(answers, self.ctx.events)

    def _columns(self, answers: list[Group]) -> dict[str, FloatArray]:
        """Column -> [P] one number a prompt, from its one answer."""
        columns: dict[str, FloatArray] = {**score_policy(answers, self.judges)}
        columns["kl"] = np.array(list(self._kl(answers)))
        columns["stopped"] = np.array([g.completions[0].stopped for g in answers], np.float64)
        return columns

    def _kl(self, answers: list[Group]) -> Iterator[float]:
        """KL to the reference of each sample: sum of log-ratios, unbiased at temperature 1."""
        read = forward_groups(self.models.reference, answers, self.ctx.machine.tokens)
        for group, reading in read:
            for completion, below in zip(group.completions, reading.logp or (), strict=True):
                assert completion.logp is not None
                yield float(completion.logp.sum(dtype=np.float64) - below.sum(dtype=np.float64))

    def _scores(self) -> list[float]:
        """The judge's scores by which the best policy is chosen, one a point of the curve."""
        return [point[self.validation.choose or ""] for point in self.curve]

    def _best(self) -> int:
        """Where on the curve the best policy is."""
        return best_index(self._scores())

    def _should_stop(self, turn: int) -> bool:
        choose, patience = self.validation.choose, self.validation.patience
        if choose is None or turn == self.rollout.shape.rounds:
            return False
        if not is_out_of_patience(self._scores(), patience):
            return False
        since = len(self.curve) - 1 - self._best()
        self.ctx.events.log(
            "enough",
            round=turn,
            text=f"stopped after round {turn}: {choose} was best {since} evaluations ago",
        )
        return True

    def _keep_weights(self, policy: nn.Module) -> None:
        if process_rank() > 0:
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        state = {
            k: v.detach().clone().contiguous()
            for k, v in what_is_trained(policy).state_dict().items()
        }
        part = self.keep / "best.part"
        save_file(state, part)
        part.replace(self.keep / "best.safetensors")
