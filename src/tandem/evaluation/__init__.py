"""Evaluation on paper: judged groups in, tables with intervals out. No torch.

reward_evaluation   a reward model's scores against held-out judgments
pairwise_evaluation judges of pairs against each other on the same judgments
policy_evaluation   policies against each other on the same prompts
accuracy_evaluation how often they answer right, by decoder and part of the questions
"""

from tandem.evaluation.accuracy import (
    AccuracyEvaluation,
    accuracy_evaluation,
    confidence_auroc,
    majority_answers,
    split_by_stratum,
    vote_share,
)
from tandem.evaluation.comparisons import Comparisons, lay_out_comparisons
from tandem.evaluation.judge_tables import PairwiseEvaluation, pairwise_evaluation
from tandem.evaluation.policy import (
    PolicyEvaluation,
    PolicyRow,
    kl_column,
    length_column,
    policy_evaluation,
    score_column,
)
from tandem.evaluation.reward_tables import (
    RewardEvaluation,
    Slice,
    learning_table,
    reward_evaluation,
    with_other_prompts,
)
from tandem.evaluation.tables import Table

__all__ = [
    "reward_evaluation",
    "RewardEvaluation",
    "Slice",
    "with_other_prompts",
    "learning_table",
    "lay_out_comparisons",
    "Comparisons",
    "pairwise_evaluation",
    "PairwiseEvaluation",
    "policy_evaluation",
    "PolicyEvaluation",
    "PolicyRow",
    "score_column",
    "length_column",
    "kl_column",
    "accuracy_evaluation",
    "AccuracyEvaluation",
    "split_by_stratum",
    "majority_answers",
    "vote_share",
    "confidence_auroc",
    "Table",
]
