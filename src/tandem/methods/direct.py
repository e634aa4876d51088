"""Direct fine-tuning: the answers alone, without a path to them. STaR's control.

Zelikman et al. 2022, arXiv:2203.14465, section 4: the same questions and key, no rationale. It is
trained, and examined, in the task's form that asks for an answer alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tandem.data.chat.encoding_rules import EncodingRules
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group
from tandem.data.verifiable import QuestionFormat, answer_key
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.training.optim import Optim


@dataclass(frozen=True)
class DirectConfig:
    """Settings of direct fine-tuning; batch and rate are STaR's, epochs SFT's.

    >>> DirectConfig().sft.batch
    8

    Attributes:
        sft: how the model is fitted to the answers.
    """

    sft: SFTConfig = field(
        default_factory=lambda: SFTConfig(batch=8, optim=Optim(lr=1e-6, schedule="constant"))
    )


def recipe(
    run: Run,
    base: Checkpoint,
    prompts: Groups,
    wording: QuestionFormat,
    cfg: DirectConfig = DirectConfig(),
) -> Checkpoint:
    """Train a policy to give the answer alone, without a path; the control of STaR and LMSI."""
    D = run("answers-alone", with_stated_answer, prompts, wording, base)
    return run("direct", sft.fit, base, D, cfg.sft, name="direct")


def with_stated_answer(
    prompts: Groups,
    wording: QuestionFormat,
    policy: Checkpoint,
    *,
    events: Events,
    encoding: EncodingRules = EncodingRules(),
) -> Iterator[Group]:
    """Yield each question with the key's answer as its completion."""
    form = wording.asking("answer")
    answered = (
        Group(wording.ask(g.prompt, form), (Completion(wording.state(answer_key(g.prompt))),))
        for g in prompts
    )
    return encode(Groups.of(answered), policy, events=events, encoding=encoding)
