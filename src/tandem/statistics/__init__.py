"""Honest numbers: intervals, tests, strengths, calibration and the curves of over-optimisation.

The prompt is the unit; methods are compared on the same prompts and seeds. No torch.

    intervals     mean_of, paired_difference, mean_over_seeds, by_prompt, bootstrap
    rates         share_of, win_rate, bounded_win_rate, rate_by_prompt, wilson, average_both_orders
    crossed       the variance behind all of them; deviant_seeds
    confidence_sequence    intervals that hold whenever one stops; unresolved_cells
    power         minimum_detectable, comparisons_needed, explain_few_prompts, verdict_line, holm
    ranking       fit_bradley_terry, elo_gap, win_probability, length_controlled
    calibration   accuracy, log_loss, brier, ece, temperature_scale, auroc
    curves        learning_curve, over_optimisation, ensemble_scores, aggregate_scores
    design        d_optimal, design_information
    best_of       best_of_n_law, kl_exact, kl_bound, order_weights     (a module, not re-exported)
    tilting       describe_tilt, acceptance_rate, effective_beta
    patience      best_index, is_out_of_patience: early stopping
"""

from tandem.statistics.calibration import (
    Bin,
    accuracy,
    auroc,
    brier,
    ece,
    log_loss,
    ordering_credit,
    reliability_bins,
    temperature_scale,
    win_probability_of,
)
from tandem.statistics.confidence_sequence import confidence_sequence, unresolved_cells
from tandem.statistics.crossed import deviant_seeds
from tandem.statistics.curves import (
    AggregateRule,
    LearningCurve,
    OverOptimisation,
    aggregate_scores,
    centre_scores,
    ensemble_scores,
    learning_curve,
    member_disagreement,
    over_optimisation,
)
from tandem.statistics.design import d_optimal, design_information
from tandem.statistics.intervals import (
    Estimate,
    bootstrap,
    by_prompt,
    mean_of,
    mean_over_seeds,
    paired_difference,
)
from tandem.statistics.patience import best_index, is_out_of_patience
from tandem.statistics.power import (
    comparisons_needed,
    explain_few_prompts,
    holm,
    minimum_detectable,
    verdict_line,
)
from tandem.statistics.ranking import (
    ELO_PER_NAT,
    Strengths,
    elo_gap,
    fit_bradley_terry,
    length_controlled,
    win_probability,
)
from tandem.statistics.rates import (
    FEWEST_PROMPTS,
    average_both_orders,
    bounded_win_rate,
    outcomes_of,
    rate_by_prompt,
    share_of,
    wilson,
    win_rate,
)
from tandem.statistics.tilting import acceptance_rate, describe_tilt, effective_beta

__all__ = [
    "describe_tilt",
    "acceptance_rate",
    "effective_beta",
    "Estimate",
    "mean_of",
    "mean_over_seeds",
    "paired_difference",
    "share_of",
    "FEWEST_PROMPTS",
    "deviant_seeds",
    "confidence_sequence",
    "unresolved_cells",
    "explain_few_prompts",
    "win_rate",
    "outcomes_of",
    "average_both_orders",
    "wilson",
    "by_prompt",
    "rate_by_prompt",
    "bounded_win_rate",
    "bootstrap",
    "holm",
    "minimum_detectable",
    "comparisons_needed",
    "verdict_line",
    "ELO_PER_NAT",
    "Strengths",
    "fit_bradley_terry",
    "elo_gap",
    "win_probability",
    "length_controlled",
    "Bin",
    "accuracy",
    "ordering_credit",
    "log_loss",
    "brier",
    "reliability_bins",
    "ece",
    "temperature_scale",
    "win_probability_of",
    "auroc",
    "LearningCurve",
    "learning_curve",
    "OverOptimisation",
    "over_optimisation",
    "centre_scores",
    "AggregateRule",
    "aggregate_scores",
    "ensemble_scores",
    "member_disagreement",
    "best_index",
    "is_out_of_patience",
    "d_optimal",
    "design_information",
]
