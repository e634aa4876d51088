"""Methods x seeds under one budget, and one table of numbers that says which won.

plan       what is compared, and what is expected: written down before it is run
seeds      one seed: every method from the same start, on the same evaluation prompts
workers    seeds side by side: processes, or a Ray cluster
results    the exams of all seeds as `results.json`
"""

from tandem.bench.plan import OPPONENT, Claim, Entry, Plan, claim
from tandem.bench.results import collect
from tandem.bench.workers import run_seeds

__all__ = ["OPPONENT", "Claim", "Entry", "Plan", "claim", "collect", "run_seeds"]
