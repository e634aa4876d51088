"""Stage that evaluates solvers on questions with one checkable answer, by way of decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.verifiable import AnswerParser
from tandem.evaluation import (
    accuracy_evaluation,
    confidence_auroc,
    majority_answers,
    score_column,
    split_by_stratum,
    vote_share,
)
from tandem.judges import Judge
from tandem.judges.agreement import Agreement, SameAnswer
from tandem.machine import Machine
from tandem.stages.judging import judge


@dataclass(frozen=True)
class DecodingRule:
    """How a question is answered: n completions at a temperature, marked apart or by vote."""

    n: int
    temperature: float
    vote: bool = False


def evaluate_solutions(
    answers: Mapping[str, Mapping[str, Groups]],
    decoders: Mapping[str, DecodingRule],
    *,
    read: AnswerParser,
    truth: Judge,
    machine: Machine,
) -> dict[str, Any]:
    """Mark stated answers, by decoder and by stratum, and compare with the first policy.

    "plurality right" are the questions on which that policy's commonest answer, by its first
    voting decoder, is the right one. Its own vote there is right by selection; the other
    decoders' draws are independent of it.

    Args:
        answers: policy -> decoder -> its completions, on the same questions.
        decoders: what each decoder is.
        read: how an answer is read from a text.
        truth: the judge that marks right answers 1 and others 0.

    Returns:
        `text`, the tables; `numbers`, the same for JSON; `solved`, every prompt's marks, and
        `parts`, which prompts are in which part, to be put together over seeds.
    """
    solved: dict[str, dict[str, np.ndarray]] = {}
    lines: list[str] = []
    for name, by in answers.items():
        solved[name] = {}
        for decoder, groups in by.items():
            voting = decoders[decoder].vote
            counted = list(Agreement(SameAnswer(read))(groups)) if voting else list(groups)
            said = Groups.of(majority_answers(counted) if voting else counted)
            right = score_column(judge(said, truth, machine=machine))
            solved[name][decoder] = right
            if voting and (a := confidence_auroc(vote_share(counted), right)) is not None:
                lines.append(f"{name}, {decoder}: confidence tells right from wrong, AUROC {a:.3f}")
    first = next(iter(answers))
    parts = split_by_stratum(list(next(iter(answers[first].values()))))
    if votes := [d for d, by in decoders.items() if by.vote]:
        plural = solved[first][votes[0]] > 0.5
        parts |= {"plurality right": plural, "plurality wrong": ~plural}
    found = accuracy_evaluation(solved, parts, opponent=first)
    return {
        "text": "\n\n".join([str(found), "\n".join(lines)]).strip(),
        "numbers": found.as_dict(),
        "solved": {n: {d: v.tolist() for d, v in by.items()} for n, by in solved.items()},
        "parts": {name: inside.tolist() for name, inside in parts.items()},
    }
