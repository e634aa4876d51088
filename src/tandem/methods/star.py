"""STaR: bootstrapping reasoning with reasoning, from questions with an answer key.

Zelikman et al. 2022, arXiv:2203.14465, Algorithm 1:

    1. M_0: the base
    2. for n in 1..N, until the share of right answers rises no more:
    3.     r, y = M_{n-1}(x), greedy: a rationale and an answer
    4.     r', y' = M_{n-1}(x + hint at the key's answer), where y is wrong       rationalisation
    5.     D = {(x, r, y): y right}
    6.     D += {(x, r', y'): y wrong, y' right}, the hint taken out of the prompt
    7.     M_n: M_0, the base again, fine-tuned on D

Line 3 measures M_{n-1}, and after all N loops M_N. Where a model is no better than the one before,
nothing more is fitted. The best measured model is returned.

Departure: worked examples, where a task's first form has any, stay in every prompt (sampling,
training, examination); the paper drops them once the model needs them no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.data.verifiable import QuestionFormat
from tandem.engines import Sampling
from tandem.errors.ranges import Count, CountOrZero, Range, check_ranges
from tandem.judges import Judge
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.operators import correct, incorrect
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.encoding import ask_questions
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.optim import Optim


@dataclass(frozen=True)
class STaRConfig:
    """Settings of STaR; steps, growth, warmup, and sft's batch and rate are the paper's for GPT-J.

    >>> STaRConfig(loops=4, rationalise=False).loops
    4

    Attributes:
        loops: outer loops N, at most; each fits a model.
        gain: stop when the share of right training answers rises by no more than this from one
            model to the next: 0 stops on a plateau, -1 lets all loops run.
        rationalise: give wrong ones a second try with a hint; False is the paper's ablation.
        steps: training steps of the first loop.
        growth: factor on the steps, each loop.
        warmup: steps in which the rate rises; where a loop has fewer, it does not arrive.
        sft: how each model is fitted; `steps` and `epochs` in it are not read.
    """

    loops: Count = 16
    gain: Annotated[float, Range(-1, 1)] = 0.0
    rationalise: bool = True
    steps: Count = 40
    growth: Annotated[float, Range(1)] = 1.2
    warmup: CountOrZero = 100
    sft: SFTConfig = field(
        default_factory=lambda: SFTConfig(batch=8, optim=Optim(lr=1e-6, schedule="constant"))
    )

    def __post_init__(self) -> None:
        check_ranges(self, "star")

    def training(self, loop: int) -> SFTConfig:
        """Return the settings of a loop, the first being 1: floor(40 * 1.2^(n - 1)) steps."""
        return self.taking(math.floor(self.steps * self.growth ** (loop - 1)))

    def taking(self, steps: int) -> SFTConfig:
        """Return the settings of a fit with these steps."""
        share = steps / max(self.warmup, 1)
        lr = self.sft.optim.lr * min(1.0, share)
        optim = replace(self.sft.optim, lr=lr, warmup=min(1.0, self.warmup / steps))
        return replace(self.sft, steps=steps, optim=optim)


def recipe(
    run: Run,
    base: Checkpoint,
    prompts: Groups,
    wording: QuestionFormat,
    truth: Judge,
    sampling: Sampling,
    cfg: STaRConfig = STaRConfig(),
) -> Checkpoint:
    """Questions with answer keys in, a policy that reasons out."""
    greedy, form, room = replace(sampling, temperature=0.0), wording.forms[0], sampling.max_tokens
    asked = run("asked", ask_questions, prompts, wording, form, base, room=room)
    M, measured, n = base, list[tuple[float, Checkpoint]](), 1  # 1
    while True:  # 2
        tried = run(f"tried-{n}", sample, M, asked, n=1, sampling=greedy)  # 3
        marked = run(f"marked-{n}", judge, tried, truth)
        D = run(f"right-{n}", select, marked, correct())  # 5
        share = len(D) / len(asked)
        measured.append((share, M))
        if n > cfg.loops or (n > 1 and share - measured[-2][0] <= cfg.gain):
            break
        if cfg.rationalise and share < 1:
            wrong = run(f"wrong-{n}", select, marked, incorrect())
            unsolved = run(f"unsolved-{n}", under_prompts, wrong, prompts)
            hinted = run(
                f"hinted-{n}", ask_questions, unsolved, wording, form, base, hint=True, room=room
            )
            led = run(f"rationales-{n}", sample, M, hinted, n=1, sampling=greedy)  # 4
            untold = run(f"unhinted-{n}", under_prompts, led, wrong)
            remarked = run(f"remarked-{n}", judge, untold, truth)
            D = D + run(f"rationalised-{n}", select, remarked, correct())  # 6
        M = run(f"model-{n}", sft.fit, base, D, cfg.training(n), name="STaR")  # 7
        run.events.log("star", loop=n, right=share, learned_from=len(D) / len(asked))
        n += 1
    best, M = max(measured, key=lambda model: model[0])
    why = "all loops are done" if n > cfg.loops else "no gain"
    run.events.log("star", loop=n, right=share, text=f"{why}: {M} is kept, {best:.1%} right")
    return M


def under_prompts(groups: Groups, prompts: Groups) -> Iterator[Group]:
    """Yield the groups under other prompts of the same id: bare ones, or ones without a hint."""
    asked = {g.id: g.prompt for g in prompts}
    return (replace(g, prompt=asked[g.id]) for g in groups)
