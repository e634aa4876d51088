"""Policies on questions with one checkable answer: decoded in several ways, marked, compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tandem.data.groups import Groups
from tandem.data.verifiable import Form, Wording
from tandem.engines import Sampling
from tandem.judges import Judge
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.encoding import ask
from tandem.stages.evaluate_solutions import Decoder, examine_solutions
from tandem.stages.sampling import sample

DECODERS: dict[str, Decoder] = {
    "greedy": Decoder(1, 0.0),
    "sampled": Decoder(4, 1.0),
    "vote-0.7": Decoder(15, 0.7, vote=True),
    "vote-1.2": Decoder(15, 1.2, vote=True),
}
"""LMSI's paper votes at .7 before training and at 1.2 after it, when the model is sharper. Here
every policy is decoded in both ways."""


@dataclass(frozen=True)
class Solver:
    """A policy, and the form in which it is asked."""

    policy: Checkpoint
    form: Form


def solve(
    run: Run,
    solvers: Mapping[str, Solver],
    questions: Groups,
    wording: Wording,
    truth: Judge,
    how: Sampling,
    decoders: Mapping[str, Decoder] = DECODERS,
) -> dict[str, Any]:
    """Examine solvers on questions that none was trained on; the first is the one to beat.

    Returns:
        `text`, the tables, and `numbers`, for JSON: among them every prompt's marks.
    """
    answers: dict[str, dict[str, Groups]] = {}
    first = next(iter(solvers.values())).policy
    room = how.max_tokens
    for name, solver in solvers.items():
        form, policy = solver.form, solver.policy
        asked = run(f"exam-{form.name}", ask, questions, wording, form, first, room=room)
        answers[name] = {
            decoder: run(
                f"solved-{name.replace(' ', '-')}-{decoder.replace('.', '')}",
                sample,
                policy,
                asked,
                n=by.n,
                how=replace(how, temperature=by.temperature),
            )
            for decoder, by in decoders.items()
        }
    return run(
        "solutions-exam", examine_solutions, answers, dict(decoders), read=wording.read, truth=truth
    )
