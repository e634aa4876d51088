"""Operators select: which completions to keep, which to compare, which to learn from.

An operator is a frozen value that prints as the call that makes it, and maps a stream of groups
to a stream of groups:

    rejection(beta=0.5, keep=8)(groups, seed)

It reads columns that judges wrote, never opens a model and never invents a completion. What it
does to a group depends on that group, its prompt's id and the seed alone, whatever the order;
the two exceptions read the whole collection, and say so: a global threshold, and `mismatch`.

    keep       best  above  top_share  rejection  distinct  majority  correct  incorrect
    compare    rank_pairs  synthetic_pairs  shuffled_clusters  clean_pairs
    unpaired   unpair  mismatch
    prompts    asks
"""

from tandem.operators.columns import Operator, cluster_share
from tandem.operators.compare import (
    Pairing,
    clean_pairs,
    rank_pairs,
    shuffled_clusters,
    synthetic_pairs,
)
from tandem.operators.keep import (
    Scope,
    above,
    best,
    correct,
    distinct,
    incorrect,
    majority,
    rejection,
    top_share,
)
from tandem.operators.prompts import asks
from tandem.operators.unpairing import is_mismatched, mismatch, unpair

__all__ = [
    "Operator",
    "best",
    "above",
    "Scope",
    "top_share",
    "rejection",
    "distinct",
    "majority",
    "correct",
    "incorrect",
    "rank_pairs",
    "Pairing",
    "synthetic_pairs",
    "shuffled_clusters",
    "cluster_share",
    "clean_pairs",
    "unpair",
    "mismatch",
    "is_mismatched",
    "asks",
]
