"""A world for self-improvement in which there are several ways, and hints may mislead.

    python experiments/self_improvement.py --ways --page docs/results/self-improvement-ways.md

The questions, their answers and the shipped base are micro arithmetic's. The base goes on
learning from people who differ from its own teachers:

    1. They make a problem's changes in whatever order they like, where the shipped base has seen
       only the question's order. So there are several paths to an answer, with facts of their
       own, and a vote over paths can be right where the likeliest path is wrong. LMSI needs that.
    2. Told a hint, they keep the largest number for the last step, make no slips and calculate on
       by themselves, and the hint is wrong four times in ten. The shipped base's teachers slip at
       a fifth of their steps and end at the hint all the same. So a rationale arrives at a hint
       mostly when its steps lead there. Six demonstrations in thirteen are hinted, not two in nine.

How this was chosen (docs/log/self-improvement.md): bases were measured on questions of seed 100, by
a vote of 32 paths beside the greedy answer, and by the rationales that are right in every step. But
a first choice, with fewer hints that mislead less often, was run on seeds 1 to 5 and left because
its vote was .8 above its greedy answer on their questions, with LMSI no better than it. Then this
one was run on them too. What is reported are seeds that neither had seen, and questions of which 6
in 2,997 are also among those that both had.
"""

from __future__ import annotations

from collections.abc import Iterator

from numpy.random import Generator

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.methods import sft
from tandem.methods.sft import SFTConfig
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.tasks.micro import arithmetic
from tandem.tasks.micro.lessons import FORMS, SLIPS, training_problem
from tandem.tasks.micro.posts import Meta, pick_one
from tandem.tasks.micro.words import LARGEST
from tandem.training.optim import Optim

HINTS = 4
"""Further hinted forms beside the two of the base's lessons: six demonstrations of thirteen."""
MISLEADING = 0.4
LEARNING = SFTConfig(
    steps=550,
    batch=64,
    optim=Optim(lr=1e-3, schedule="linear", warmup=2 / 11, weight_decay=0.05),
)


def base(run: Run, shipped: Checkpoint) -> Checkpoint:
    """Teach the shipped base that there are several ways."""
    taught = run("several-ways", demonstrations, LEARNING.steps * LEARNING.batch, shipped)
    return run("base", sft.fit, shipped, taught, LEARNING, name="base")


def demonstrations(n: int, shipped: Checkpoint, *, seed: Seed, events: Events) -> Iterator[Group]:
    """Yield problems in every form, each solved by one person; no question is a held-out one.

    In another order than the question's, a chain may begin as a held-out question does: 2 %.
    """
    drawn = Groups.of(demonstration(seed.at(i).rng(), f"ways/{i}") for i in range(n))
    return encode(drawn, shipped, events=events)


def demonstration(rng: Generator, name: str) -> Group:
    """One problem and its solution."""
    meta, form = (
        training_problem(rng, arithmetic.any_stratum(rng)),
        pick_one(rng, FORMS + ("hint",) * HINTS),
    )
    ways = arithmetic.step_orders(meta)
    if form == "hint":
        wrong = rng.random() < MISLEADING
        hint = int(rng.integers(0, LARGEST + 1)) if wrong else meta["answer"]
        asked = arithmetic.problem_question({**meta, "answer": hint}, "hint")
        solved = arithmetic.write_solution(max(ways, key=last_number), rng)
    else:
        asked = arithmetic.problem_question(meta, form)
        solved = arithmetic.write_solution(pick_one(rng, ways), rng, SLIPS, form)
    turn = {"role": "user", "content": asked}
    return Group(Prompt(name, asked, (turn,)), (Completion(solved),))


def last_number(way: Meta) -> list[int]:
    """Numbers that are gained or lost, the last first; a product comes before all of them."""
    return [0 if sign == "x" else int(number) for sign, number in reversed(way["changes"])]
