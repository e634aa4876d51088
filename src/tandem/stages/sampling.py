"""Completions drawn from a policy: a checkpoint, or a way of decoding one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.engines.cut_answers import log_cut_answers
from tandem.engines.open_engine import open_engine
from tandem.errors import ConfigError
from tandem.judges import Judge, open_judge
from tandem.machine import Machine
from tandem.models.opening import open_policy
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import UnknownTokens, load_tokenizer
from tandem.operators.columns import scores_of
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events


@dataclass(frozen=True)
class BestOf:
    """A decoding policy: draw n answers of a policy and give the one that a judge likes best.

    >>> pi = Checkpoint(Path("models/my-model"), "SFT")
    >>> str(BestOf(pi, RewardModel(Checkpoint(Path("models/reward"))), n=16))
    'best-of-16'

    A handle like a checkpoint: `sample` draws from it and `evaluate` compares it with other
    policies.
    Nothing was trained and there are no weights, so it has no log-probabilities to read; how far
    it is from its policy is known from n alone, `statistics.best_of.kl_bound`.

    Attributes:
        policy: the policy that is sampled.
        judge: the scoring judge that chooses; ties go to the earlier answer.
        n: answers drawn for each answer given, at least 1.
        name: the author of the answers; best-of-n by default.
    """

    policy: Checkpoint
    judge: Judge
    n: int
    name: str = ""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(
                f"best of n = {self.n}",
                "it gives one of n draws",
                "give n of 1 or more; 1 is the policy itself",
            )

    def __str__(self) -> str:
        return self.name or f"best-of-{self.n}"

    def choose(self, drawn: Group) -> Group:
        """Cut a judged group into blocks of n and keep the best of each."""
        blocks = scores_of(drawn, "best-of-n").reshape(-1, self.n)
        kept = np.arange(len(blocks)) * self.n + blocks.argmax(1)
        return replace(drawn.keep(kept.tolist()), scores=None)


Policy = Checkpoint | BestOf


def sample(
    policy: Policy,
    prompts: Groups,
    *,
    n: int,
    sampling: Sampling = Sampling(),
    seed: Seed,
    machine: Machine,
    events: Events,
) -> Iterator[Group]:
    """Draw n completions of each prompt from a policy; other columns of the prompts are left out.

    Args:
        policy: the policy; its name becomes the completions' author. Of `BestOf` m, n times m
            are drawn.
        prompts: groups of which only the prompts are read.
        n: completions per prompt.
        sampling: temperature, truncation, longest answer.
    """
    if isinstance(policy, BestOf):
        given = {"sampling": sampling, "seed": seed, "machine": machine, "events": events}
        drawn = sample(policy.policy, prompts, n=n * policy.n, **given)
        yield from map(_by(policy), map(policy.choose, open_judge(policy.judge, machine)(drawn)))
        return
    trunk = open_policy(policy.path, replace(machine, lora=None))
    tokenizer = load_tokenizer(policy.path)
    engine = open_engine(trunk, tokenizer, machine)
    own = tokenise((Group(g.prompt) for g in prompts), tokenizer)
    unknown, cut = UnknownTokens(tokenizer), 0
    for done, group in enumerate(engine.sample(own, n, sampling, seed), 1):
        for completion in group.completions:
            unknown.count_in(completion.tokens)
            cut += not completion.stopped
        yield _by(policy)(group)
        if done % 64 == 0 or done == len(prompts):
            events.progress(done, len(prompts), "prompts")
    log_cut_answers(events, cut, n * len(prompts), sampling.max_tokens)
    if unknown.found:
        text = (
            f"{unknown.found:,} of {unknown.seen:,} drawn tokens have no name in the tokenizer: "
            "they are missing in the text (the model's table is longer than its tokenizer)"
        )
        events.log("unknown-tokens", text=text, found=unknown.found, drawn=unknown.seen)


def _by(policy: Policy) -> Callable[[Group], Group]:
    """Sign completions with a policy's name."""

    def signed(group: Group) -> Group:
        named = (replace(c, author=str(policy)) for c in group.completions)
        return replace(group, completions=tuple(named))

    return signed
