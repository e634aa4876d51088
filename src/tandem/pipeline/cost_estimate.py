"""What a run will take, before it: memory by part, tokens, time and disk of each of its fits.

The model is opened as it will be trained, and some rows of the data go through it forward and
backward. So memory and time are measured on this machine, not looked up. Fits on data that a run
makes itself (samples, self-labelled answers) are counted at the longest that answers may be.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tandem.batching.microbatches import unique_tokens
from tandem.batching.packing import pack_groups
from tandem.data import chat
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.judges import Judge
from tandem.judges.reward_model import reward_models
from tandem.machine import Machine
from tandem.methods import Method
from tandem.models.folders import context_length
from tandem.models.loading import keep_activations
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.quantised import weight_bytes, weight_count
from tandem.models.tokenizers import load_tokenizer
from tandem.pipeline.inputs import ENSEMBLE_SIZE, Start
from tandem.pipeline.run_method import Evaluation
from tandem.rng import Seed
from tandem.tasks import Task
from tandem.training.free_memory import resident_memory
from tandem.training.memory import FROZEN, TRAINED, MemoryNeed, choose_microbatch
from tandem.training.sources import StepSizes, sizes_of_groups

ROWS = 200
"""Groups of a collection that are tokenised for an estimate, evenly spread."""
ON_POLICY = {"ppo": 2, "grpo": 2}
"""Method -> frozen models beside the trained one: the reference and the reward."""
READ_SHARE = 1 / 3
"""Time of a forward pass without gradient, as a share of a training step's."""


@dataclass(frozen=True, slots=True)
class FitEstimate:
    """What one fit of a run will take.

    Attributes:
        name: of its stage.
        times: how often it is done: members of an ensemble.
        tokens: that all its steps read, of one of them.
        microbatch: tokens of a micro-batch at most.
        kept: what a layer keeps for the backward pass, see `training.memory`.
        need: memory by part.
        seconds: of one of them.
        disk: bytes of what one of them leaves.
    """

    name: str
    times: int
    tokens: int
    microbatch: int
    kept: int
    need: MemoryNeed
    seconds: float
    disk: int


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run will take.

    Attributes:
        fits: in the order in which they are done.
        scratch: bytes of the largest file that a killed fit resumes from; it goes when the fit
            ends.
        longest: tokens of the longest group that was read.
        usual: tokens of the median one.
    """

    fits: tuple[FitEstimate, ...]
    scratch: int
    longest: int
    usual: int

    @property
    def memory(self) -> int:
        """Bytes of the largest fit."""
        return max(fit.need.total for fit in self.fits)

    @property
    def seconds(self) -> float:
        """Of all fits; sampling and judging are not in it."""
        return sum(fit.seconds * fit.times for fit in self.fits)

    @property
    def disk(self) -> int:
        """Bytes that stay when the run has ended, of models alone."""
        return sum(fit.disk * fit.times for fit in self.fits)


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fit that is to be estimated: its rows, how they are read, and what is in memory beside."""

    name: str
    times: int
    sizes: StepSizes
    tokens: int
    frozen: int = 0
    trained: int = 1
    head: bool = True
    reference: bool = False


def estimate_run(
    method: Method,
    configs: Mapping[str, Any],
    task: Task,
    total: int,
    start: Start = "sft",
    evaluation: Evaluation = "full",
    given_reward: Judge | None = None,
) -> RunEstimate:
    """Estimate the fits of a method on a task, or on your model and your data.

    Args:
        method: what would be run.
        configs: its settings, those of what comes before, and the machine's.
        task: where it starts.
        total: bytes of memory that the process may use.
        start: whether SFT comes before the method.
        evaluation: `full` fits reward models to judge a policy by.
        given_reward: what the method learns from in place of a reward fitted to comparisons.

    Raises:
        DataError: there is no row that could be read.
    """
    machine: Machine = configs["machine"]
    policy = open_policy(task.base.path, machine, train=True, seed=Seed())
    fits = _fits(method, configs, task, start, evaluation, given_reward)
    sample = next((fit.sizes.sample for fit in fits if fit.sizes.sample), ())
    each_second = seconds_per_token(policy, sample or _drawn(policy))
    weights = sum(map(weight_count, policy.parameters()))
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    besides = max(0, resident_memory() - sum(map(weight_bytes, policy.parameters())))
    found: list[FitEstimate] = []
    for fit in fits:
        own = fit.name in ON_POLICY and machine.lora is not None and machine.sharding == "none"
        frozen = fit.frozen - 1 if own else fit.frozen  # the reference is the policy itself
        held = besides + frozen * FROZEN * weights
        sizes = replace(fit.sizes, trained=fit.sizes.trained if fit.head else 0.0)
        choice = choose_microbatch(policy, machine.tokens, total, {}, sizes=sizes, held=held)
        if choice.kept:  # the next fit begins with everything kept
            keep_activations(policy.inner)
        reading = READ_SHARE if fit.reference else 0.0
        found.append(
            FitEstimate(
                name=fit.name,
                times=fit.times,
                tokens=fit.tokens,
                microbatch=choice.tokens,
                kept=choice.kept,
                need=_of_models(choice.need, fit.trained),
                seconds=fit.tokens * each_second * (fit.trained + reading),
                disk=FROZEN * weights,
            )
        )
    lengths = sorted(unique_tokens(g) for g in sample) or [0]
    return RunEstimate(
        fits=tuple(found),
        scratch=(TRAINED - FROZEN) * trained,
        longest=max(fit.sizes.longest for fit in fits),
        usual=lengths[len(lengths) // 2],
    )


def seconds_per_token(policy: PackedModel, groups: Sequence[Group]) -> float:
    """Time forward and backward of some groups, the second time that they are read."""
    batch = pack_groups(groups, policy.layout).to(policy.device)
    began = 0.0
    for _ in range(2):
        began = time.perf_counter()
        out = policy(batch.tokens)
        assert out.logp is not None
        out.logp.values.mean().backward()
        for p in policy.parameters():
            p.grad = None
    return (time.perf_counter() - began) / max(1, batch.tokens.useful)


def _of_models(need: MemoryNeed, trained: int) -> MemoryNeed:
    """Return the need where a second model of the same size is trained beside: a value function."""
    parts = need.parts()
    return MemoryNeed(
        **{n: x if n in ("held", "logits") else x * trained for n, x in parts.items()}
    )


def _fits(
    method: Method,
    configs: Mapping[str, Any],
    task: Task,
    start: Start,
    evaluation: Evaluation,
    given_reward: Judge | None,
) -> list[_Fit]:
    """List what is fitted, in order."""
    own, fits = configs[method.name], []
    if method.name == "sft" or (start == "sft" and method.row.init.startswith("SFT")):
        fits.append(_of_data("sft", configs["sft"], _some(task.demonstrations, task)))
    preferences = task.preferences
    if task.compared and preferences is not None and given_reward is None:
        pairs = _some(preferences, task)
        judged = evaluation == "full" or method.row.fits == "reward"
        if judged or "r_phi" in method.read_inputs(own):
            reward = _of_data("reward", configs["reward"], pairs)
            times = 1 + ENSEMBLE_SIZE * judged
            fits.append(replace(reward, times=times, head=False))
        if "D" in method.inputs and method.name != "reward" and hasattr(own, "epochs"):
            reads = method.name in ("dpo", "kto")
            fits.append(replace(_of_data(method.name, own, pairs), reference=reads))
    if method.name in ON_POLICY:
        beside = given_reward is not None and not reward_models(given_reward)
        fit = _on_policy(method.name, own, configs["sampling"].max_tokens, task)
        fits.append(replace(fit, frozen=fit.frozen - beside))  # no reward model is in memory
    if not fits:
        raise DataError(
            f"nothing can be estimated for {method.name} on {task.name}",
            "it fits only on what it makes itself, and there are no rows before it runs",
            "run it with small --sizes first; every stage prints its time and memory",
        )
    return fits


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some tokenised groups of a collection, and how many it has."""

    groups: list[Group]
    total: int


def _some(groups: Groups, task: Task) -> _Rows:
    """Tokenise some groups, evenly spread."""
    chosen = Groups.of(groups[i] for i in range(0, len(groups), -(-len(groups) // ROWS)))
    tokenizer = load_tokenizer(task.base.path)
    limit = context_length(task.base.path)
    found = [g for g in chat.encode_groups(chosen, tokenizer, max_length=limit).groups if len(g)]
    if not found:
        raise DataError(
            f"none of {len(chosen)} groups fits into {limit} tokens",
            "longer ones are dropped, and nothing is left to estimate with",
            "give --data.truncation keep-end, or a model that reads longer texts",
        )
    return _Rows(found, len(groups))


def _of_data(name: str, cfg: Any, rows: _Rows) -> _Fit:
    """A fit on given rows."""
    sizes = sizes_of_groups(rows.groups, cfg.batch, divisible=False)
    mean = sum(map(unique_tokens, rows.groups)) / len(rows.groups)
    steps = getattr(cfg, "steps", None)
    read = rows.total * cfg.epochs if steps is None else steps * cfg.batch
    return _Fit(name, 1, sizes, int(mean * read))


def _on_policy(name: str, cfg: Any, answer: int, task: Task) -> _Fit:
    """A fit on its own samples, each as long as it may be."""
    prompts = _some(Groups.of(task.prompts), task).groups
    n = int(getattr(cfg, "n", 1))
    longest = max(len(g.prompt.tokens) for g in prompts) + n * answer
    mean = sum(len(g.prompt.tokens) for g in prompts) / len(prompts) + n * answer
    sizes = StepSizes(longest, cfg.minibatch * longest, n * answer / longest)
    read = cfg.rounds * cfg.prompts * cfg.inner
    separate = name == "ppo" and getattr(cfg, "value", None) != "shared"
    return _Fit(
        name, 1, sizes, int(mean * read), ON_POLICY[name], 2 if separate else 1, reference=True
    )


def _drawn(policy: PackedModel) -> list[Group]:
    """Rows of random tokens, where a run has none before it begins."""
    from tandem.data.record import Completion, Prompt

    words = int(policy.inner.config.get_text_config().vocab_size)
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, words, (n,), generator=draw).int().numpy() for n in (64, 32, 32)]
    return [Group(Prompt("drawn", "", tokens=ids[0]), tuple(Completion("", x) for x in ids[1:]))]
