"""LMSI: a language model improves itself on questions without answers.

Huang et al. 2022, arXiv:2210.11610, section 3:

    1. y_1, ..., y_m ~ base for each question x, at temperature .7       paths: chains of thought
    2. a = the answer that most of them state; confidence = its votes / m
    3. keep all paths that arrive at a (optionally where the confidence is high enough)
    4. put each path behind x in every form: with and without worked examples, "let's think step
       by step", and the bare answer in the path's place
    5. fine-tune the base on all of it

No label of x is used: the first stage drops everything but the questions, and no later stage is
given anything else.

Departures: equal paths are trained on once, with their number as weight, which is the same loss;
a step's batch counts (question, form) with all its paths, where the paper counts paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tandem.data.chat.encoding_rules import EncodingRules
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.data.verifiable import PromptStyle, QuestionFormat, without_answer
from tandem.engines import Sampling
from tandem.errors.ranges import Count, Positive, Share, check_ranges
from tandem.judges.agreement import Agreement, SameAnswer
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.operators import majority
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.encoding import ask_questions, encode
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.optim import Optim


@dataclass(frozen=True)
class LMSIConfig:
    """Settings of LMSI; m, temperature, and sft's steps, batch and rate are the paper's.

    >>> LMSIConfig(m=15, floor=0.5).m
    15

    Attributes:
        m: paths sampled per question; 15 does nearly as well (figure 4).
        temperature: of that sampling. The paper later decodes the sharper model at 1.2.
        floor: least confidence, votes / m, that a question needs to be kept; 0 keeps all.
        forms: names of the task's forms to train on; none means all of them.
        sft: how the model is fitted to its own paths.
    """

    m: Count = 32
    temperature: Positive = 0.7
    floor: Share = 0.0
    forms: tuple[str, ...] = ()
    sft: SFTConfig = field(
        default_factory=lambda: SFTConfig(
            steps=10_000, batch=32, optim=Optim(lr=5e-5, schedule="constant")
        )
    )

    def __post_init__(self) -> None:
        check_ranges(self, "lmsi")


def recipe(
    run: Run,
    base: Checkpoint,
    prompts: Groups,
    wording: QuestionFormat,
    sampling: Sampling,
    cfg: LMSIConfig = LMSIConfig(),
) -> Checkpoint:
    """Questions in, a policy that agrees with its own majority out."""
    forms = tuple(wording.form(name) for name in cfg.forms) or wording.forms
    sampling, room = replace(sampling, temperature=cfg.temperature), sampling.max_tokens
    prompts = run("questions", only_questions, prompts)
    asked = run("asked", ask_questions, prompts, wording, wording.forms[0], base, room=room)
    paths = run("paths", sample, base, asked, n=cfg.m, sampling=sampling)  # 1
    votes = run("votes", judge, paths, Agreement(SameAnswer(wording.read)))  # 2
    agreed = run("agreed", select, votes, majority(cfg.floor))  # 3
    D = run("formats", in_forms, agreed, prompts, wording, forms, base)  # 4
    return run("lmsi", sft.fit, base, D, cfg.sft, name="LMSI")  # 5


def only_questions(groups: Groups) -> Iterator[Group]:
    """Yield the questions alone: no answer key, no completion, no judgement."""
    return (Group(without_answer(g.prompt)) for g in groups)


def in_forms(
    paths: Groups,
    questions: Groups,
    wording: QuestionFormat,
    forms: tuple[PromptStyle, ...],
    policy: Checkpoint,
    *,
    events: Events,
    encoding: EncodingRules = EncodingRules(),
) -> Iterator[Group]:
    """Put every path behind its question in every form: one group a question and form."""
    asked = {g.id: g.prompt for g in questions}
    rewritten = (_in_form(g, asked[g.id], wording, form) for g in paths for form in forms)
    return encode(Groups.of(rewritten), policy, events=events, encoding=encoding)


def _in_form(paths: Group, question: Prompt, wording: QuestionFormat, form: PromptStyle) -> Group:
    """Answer with the paths, or with what they arrive at; equal texts once, by their number."""
    texts = Counter(
        (c.text, c.stopped)
        if form.target == "path"
        else (wording.state(wording.read(c.text)), True)
        for c in paths.completions
    )
    said = (Completion(text, stopped=end, weight=float(k)) for (text, end), k in texts.items())
    prompt = replace(wording.ask(question, form), id=f"{question.id}/{form.name}")
    return Group(prompt, tuple(said))
