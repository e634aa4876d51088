"""Vicuna's 80 questions in nine categories, a policy against another (Chiang et al. 2023).

Each policy answers once. The judge compares the two in both orders; orders that disagree are a
tie. Eighty questions resolve no difference below eleven points: the table's intervals say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from tandem.data.record import Group
from tandem.evaluation.suites import SuiteResult
from tandem.evaluation.suites.answers import outcome_table
from tandem.statistics.numerics import Floats


def score_by_category(
    credit: Floats, answers: Sequence[Group], against: Sequence[Group]
) -> SuiteResult:
    """Score a policy against another.

    Args:
        credit: [P] 1 won, 0 lost, .5 tied, nan where the verdict could not be read.
        answers: the policy's answers, `category` in the prompt's meta.
        against: the other's.
    """
    table = outcome_table("Vicuna, 95 % intervals", credit, answers, against, "category")
    return SuiteResult(str(table), {"parts": table.as_dicts()})
