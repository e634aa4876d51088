"""AlpacaEval 2: a policy against reference outputs, plain and length-controlled (arXiv:2404.04475).

The length-controlled win rate answers: what if both outputs were equally long?

    logit P(win) = a + b tanh(gap / sd(gap)),     win rate at equal length = logistic(a)

gap is the policy's length minus the reference's, in characters. The published leaderboard adds a
difficulty of each of its own 805 instructions, fitted over many models; on other instructions,
and with another judge, that term does not exist. So numbers of this table are comparable with
each other and not with the leaderboard.
"""

from __future__ import annotations

from collections.abc import Sequence

from tandem.data.record import Group
from tandem.evaluation.suites import SuiteResult
from tandem.evaluation.suites.answers import outcome_table
from tandem.statistics.numerics import Floats


def score_by_dataset(
    credit: Floats, answers: Sequence[Group], against: Sequence[Group]
) -> SuiteResult:
    """Score a policy against the references.

    Args:
        credit: [P] 1 won, 0 lost, .5 tied, nan where the verdict could not be read.
        answers: the policy's answers, `dataset` in the prompt's meta where it is known.
        against: the reference outputs.
    """
    table = outcome_table("AlpacaEval, 95 % intervals", credit, answers, against, "dataset")
    return SuiteResult(str(table), {"parts": table.as_dicts()})
