"""Who a policy plays against while it learns from preferences: one way to draw, several players.

    opponent             its answers come from                            pi, mu: policy, reference
    ReferenceOpponent    mu, or another frozen policy
    MixtureOpponent      pi^(1-b) mu^b, mixed and renormalised at every token
    AveragedOpponent     the policy with a moving average of its weights
    PastOpponent         the policies of earlier rounds, the same or recent ones more often

The mixture is sampled in one pass of the engine, which keeps a cache for each of the two models.
Averages and past policies hold the trained weights alone (the adapters, where LoRA is on): they
are lent to the policy while it is sampled, so no second model is kept in memory.

A policy's play against itself needs no opponent: a group's answers play against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tandem.data.record import Completion, Group
from tandem.engines import Engine, Sampling
from tandem.engines.open_engine import open_engine
from tandem.errors import ModelError
from tandem.judges.open_preference import OpenPreference
from tandem.machine import process_rank
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.tokenizers import load_tokenizer, same_tokens
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext

Weights = Mapping[str, Tensor]


class Opponent(Protocol):
    """Somebody who answers the same prompts as the policy, once a round."""

    def draw(self, groups: Sequence[Group], n: int) -> list[Group]:
        """Return each prompt with n answers of the opponent, and end its round."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on after a kill."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True)
class Players:
    """What an opponent is made of.

    Attributes:
        policy: the policy as it is trained.
        reference: mu, frozen.
        init: the checkpoint that the policy was opened from; its tokenizer writes the texts.
        sampling: how the policy is sampled, and so its opponents.
        ctx: the stage: its seed is the root of the draws, its scratch folder takes past policies.
        against: a frozen policy of its own, or None.
    """

    policy: PackedModel
    reference: PackedModel
    init: Checkpoint
    sampling: Sampling
    ctx: StageContext
    against: Checkpoint | None = None


class OpponentEngine:
    """Draws an opponent's answers; every round has draws of its own.

    Args:
        players: how and where it is sampled.
        player: the model whose weights answer, read again at every draw.
        share: of the reference in a mixture token by token; 0 is the player alone.
        key: names the root of the draws.
    """

    def __init__(
        self, players: Players, player: PackedModel, share: float = 0.0, key: str = "opponent"
    ) -> None:
        self.player, self.sampling = player, players.sampling
        self.seed, self.turn = players.ctx.seed.at(key), 0
        self.engine: Engine = open_engine(
            player,
            load_tokenizer(players.init.path),
            players.ctx.machine,
            name="opponent",
            mixture=(players.reference, share) if share else None,
        )

    def draw(self, groups: Sequence[Group], n: int) -> list[Group]:
        """Return each prompt with n answers; a prompt that stands twice is answered twice."""
        asked = [Group(replace(g.prompt, id=f"{g.id}/{k}")) for k, g in enumerate(groups)]
        self.engine.load(self.player.lm)
        drawn = self.engine.sample(asked, n, self.sampling, self.seed.at("draws", self.turn))
        return [replace(d, prompt=g.prompt) for d, g in zip(drawn, groups, strict=True)]


class ReferenceOpponent:
    """A frozen policy, the reference where no other is named: who a best response is learned to."""

    def __init__(self, players: Players) -> None:
        frozen = players.reference
        if players.against is not None:
            _check_tokens(players.against, players.init)
            machine = replace(players.ctx.machine, lora=None)
            frozen = open_policy(players.against.path, machine)
        self.engine = OpponentEngine(players, frozen)

    def draw(self, groups: Sequence[Group], n: int) -> list[Group]:
        """Return each prompt with n of its answers."""
        drawn = self.engine.draw(groups, n)
        self.engine.turn += 1
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The round."""
        return {"turn": self.engine.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that round."""
        self.engine.turn = int(state["turn"])


class MixtureOpponent(ReferenceOpponent):
    """The geometric mixture of policy and reference, token by token (arXiv:2312.00886).

    Mixing tokens is not mixing answers: each prefix is renormalised on its own, so the law of
    whole answers is another one than pi^(1-b) mu^b / Z. For answers of one token they agree.

    Args:
        players: the policy and the reference.
        share: b, the reference's exponent: 0 is the policy, 1 the reference.
    """

    def __init__(self, players: Players, share: float) -> None:
        self.engine = OpponentEngine(players, players.policy, share)


class AveragedOpponent:
    """The policy with a moving average of its weights, averaged once a round.

    theta_bar <- decay theta_bar + (1 - decay) theta, from the first policy on.

    Args:
        players: the policy.
        decay: from 0 (the policy itself) to 1 (the first policy for ever).
    """

    def __init__(self, players: Players, decay: float) -> None:
        self.policy, self.decay = players.policy, decay
        self.engine = OpponentEngine(players, players.policy)
        self.average: dict[str, Tensor] = {}

    def draw(self, groups: Sequence[Group], n: int) -> list[Group]:
        """Average this round's policy in, and let the average answer."""
        now = trained_weights(self.policy)
        known = self.average or now
        self.average = {k: known[k].lerp(x, 1 - self.decay) for k, x in now.items()}
        with lent_weights(self.policy, self.average):
            drawn = self.engine.draw(groups, n)
        self.engine.turn += 1
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The round and the average."""
        return {"turn": self.engine.turn, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that round and average."""
        self.engine.turn = int(state["turn"])
        self.average = {k: x.to(self.policy.device) for k, x in state["average"].items()}


class PastOpponent:
    """A mixture of the policies of the rounds so far, this one included: one a prompt, drawn.

    Args:
        players: the policy, and where earlier ones are kept, their trained weights alone.
        keep: how many policies are remembered, the latest ones.
        every: rounds between two of them.
        recency: a policy counts this much of the next younger one; 1 makes all equal.
    """

    def __init__(self, players: Players, keep: int, every: int, recency: float) -> None:
        self.policy, self.keep, self.every, self.recency = players.policy, keep, every, recency
        self.engine = OpponentEngine(players, players.policy)
        self.folder = players.ctx.scratch / "past"
        self.turns: list[int] = []
        self.saved: list[int] = []

    def draw(self, groups: Sequence[Group], n: int) -> list[Group]:
        """Remember this round's policy, and let one of those remembered answer each prompt."""
        self._remember()
        drawn: dict[int, Group] = {}
        for turn, places in self._assigned(len(groups)):
            with lent_weights(self.policy, load_file(self._file(turn))):
                answers = self.engine.draw([groups[i] for i in places], n)
            drawn |= dict(zip(places, answers, strict=True))
        self.engine.turn += 1
        return [drawn[i] for i in range(len(groups))]

    def state_dict(self) -> dict[str, Any]:
        """The round, and the rounds whose policies are remembered.

        Policies that neither this state nor the one before names are deleted: until this state is
        on the disk, a run that is killed goes on from the one before.
        """
        for old in self.folder.glob("*.safetensors"):
            if int(old.stem) not in {*self.turns, *self.saved}:
                old.unlink(missing_ok=True)
        self.saved = list(self.turns)
        return {"turn": self.engine.turn, "turns": list(self.turns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that round; the policies lie in the scratch folder."""
        self.engine.turn = int(state["turn"])
        self.turns = [int(t) for t in state["turns"]]
        self.saved = list(self.turns)

    def _remember(self) -> None:
        if self.engine.turn % self.every:
            return
        turn = self.engine.turn
        if process_rank() == 0:  # all processes have the same weights
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self._file(turn).with_suffix(".part")
            save_file({k: x.contiguous() for k, x in trained_weights(self.policy).items()}, part)
            part.replace(self._file(turn))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        self.turns = [*self.turns, turn][-self.keep :]

    def _assigned(self, count: int) -> Iterator[tuple[int, list[int]]]:
        """Yield each remembered round with the places of the prompts that its policy answers."""
        weights = self.recency ** np.arange(len(self.turns))[::-1].astype(np.float64)
        rng = self.engine.seed.at("whom", self.engine.turn).rng()
        whom = rng.choice(len(self.turns), count, p=weights / weights.sum())
        for k, turn in enumerate(self.turns):
            places = np.flatnonzero(whom == k).tolist()
            if places:
                yield turn, places

    def _file(self, turn: int) -> Path:
        return self.folder / f"{turn:05d}.safetensors"


class WinsOver:
    """Scores answers by how likely each beats a frozen policy's, averaged over a few of those.

    A scoring function like an opened judge. The frozen policy answers each prompt once, when it
    is first asked for, so a prompt that comes again meets the same opponents.

    Args:
        preference: who compares.
        draw: gives prompts their opponents' answers.
    """

    def __init__(
        self, preference: OpenPreference, draw: Callable[[Sequence[Group]], list[Group]]
    ) -> None:
        self.preference, self.draw = preference, draw
        self.answers: dict[str, tuple[Completion, ...]] = {}

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with win rates in `scores`."""
        asked = list(groups)
        new = list({g.id: Group(g.prompt) for g in asked if g.id not in self.answers}.values())
        self.answers |= {g.id: g.completions for g in (self.draw(new) if new else ())}
        theirs = [Group(g.prompt, self.answers[g.id]) for g in asked]
        for group, p in zip(asked, self.preference.against(asked, theirs), strict=True):
            yield replace(group, scores=p.mean(axis=1))


def wins_over_reference(preference: OpenPreference, players: Players, n: int = 4) -> WinsOver:
    """Return the score of an answer as its chance to beat the reference's, n answers a prompt."""
    engine = OpponentEngine(players, players.reference, key="reference answers")
    return WinsOver(preference, lambda groups: engine.draw(groups, n))


def _check_tokens(against: Checkpoint, init: Checkpoint) -> None:
    if not same_tokens(against.path, init.path):
        raise ModelError(
            f"{against} has another tokenizer than {init}",
            "both answer the same prompts in the same tokens while one learns to beat the other",
            "name a policy of the same family",
        )


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights that are trained: all of them, or the adapters."""
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


@contextmanager
def lent_weights(module: nn.Module, weights: Weights) -> Iterator[None]:
    """Put other numbers into the trained weights inside the block, and the own ones back.

    Args:
        module: the policy.
        weights: by the parameter's name, as `trained_weights` gives them.
    """
    own = trained_weights(module)
    try:
        _copy_weights(module, weights)
        yield
    finally:
        _copy_weights(module, own)


def _copy_weights(module: nn.Module, weights: Weights) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
