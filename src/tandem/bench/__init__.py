"""Methods x seeds under one budget, and one table of numbers that says which won.

plan       what is compared, and what is expected: written down before it is run
seeds      one seed: every method from the same start, on the same evaluation prompts
workers    seeds side by side: processes, or a Ray cluster
finished   what the finished seeds have left on disk
anytime_results   seeds that are added until all is resolved, and intervals that hold then
outcomes   every policy's numbers on every prompt, kept as Parquet
results    their exams as `results.json`
shown      what a report shows beside the table
limits     what the comparison does not show
presets    plans that come with Tandem
"""

from tandem.bench.finished import Finished
from tandem.bench.plan import OPPONENT, Claim, Entry, Plan, parse_claims
from tandem.bench.results import collect_results, remake_statistics
from tandem.bench.workers import run_seeds

__all__ = [
    "OPPONENT",
    "Claim",
    "Entry",
    "Finished",
    "Plan",
    "parse_claims",
    "collect_results",
    "remake_statistics",
    "run_seeds",
]
