"""An exam that needs no pairs: does a policy's own reward tell good answers from bad ones?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.evaluation.mark_separation import marks_of, separate_marks
from tandem.judges.reward_model import ImplicitReward
from tandem.machine import Machine
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.judging import judge


def evaluate_marks(
    policy: Checkpoint, reference: Checkpoint, held_out: Groups, *, machine: Machine
) -> dict[str, Any]:
    """Score held-out marked answers with log pi - log pi_ref.

    Args:
        policy: what was trained.
        reference: what it was trained from.
        held_out: single answers with scores 1 (good) and 0 (bad), tokenised.

    Returns:
        `text`, and `numbers`, the same for JSON.
    """
    scorer = ImplicitReward(policy, reference, beta=1.0)
    scored = judge(held_out, scorer, machine=machine)
    scores = np.array([x for g in scored if g.scores is not None for x in g.scores], np.float64)
    found = separate_marks(scores, marks_of(held_out))
    return {"text": str(found), "numbers": found.as_dict()}
