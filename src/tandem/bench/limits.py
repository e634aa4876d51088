"""What a comparison does not show, read off the facts of this one."""

from __future__ import annotations

from collections.abc import Iterator

from tandem.bench.finished import Finished


def limit_notes(found: Finished) -> list[str]:
    """Return one sentence a limit, the weightiest first."""
    return [*_world(found), *_judges(found), *_rows(found), *_seeds(found)]


def _world(found: Finished) -> Iterator[str]:
    plan = found.plan
    if (plan.task or "").startswith("micro"):
        yield (
            "The micro world is a small language and its model has a million parameters: what is "
            "seen here is how methods work, not how large models rank."
        )
        yield (
            f"The labels are simulated: {plan.sizes.pairs} comparisons by an annotator who knows "
            f"the truth and errs on {plan.sizes.flips:.0%} of them. People err less evenly."
        )
    yield (
        "Every method met the same prompts, labels and starting point; seconds and samples were "
        "not equal, and are columns of the table."
    )


def _judges(found: Finished) -> Iterator[str]:
    if found.judge != "truth":
        yield f"Nobody knows the truth about this data: {found.judge} decides, and it can be wrong."
    if "gold_rm" in found.main:
        yield (
            "gold_rm is several reward models fitted to the preferences that the proxy was fitted "
            "to: it was not optimised, but it shares what is wrong in the labels."
        )
    if "proxy" in found.main:
        yield (
            "proxy is the reward model fitted to the first preferences, in every row; a method "
            "that fits a ranker or a reward of its own optimised that one."
        )
    if "llm_win" in found.main:
        yield "The language model that compares answers is the model before training."


def _rows(found: Finished) -> Iterator[str]:
    if any(e.method == "best_of_n" for e in found.plan.entries):
        yield "The KL of best-of-n is its bound, log n - (n - 1)/n, and no estimate."
    for name in found.failed:
        yield f"{name} failed, so nothing here is about it."


def _seeds(found: Finished) -> Iterator[str]:
    if len(found.seeds) > 1:
        yield (
            "Intervals are for seed effects that are about normal: a seed that diverged is named "
            "in its row, and no interval covers it."
        )
        yield (
            f"Samples, the reward model's page and the drawing of lengths are of seed "
            f"{found.seeds[0]} alone."
        )
    if left := len(found.plan.seeds) - len(found.seeds):
        begun = f", {len(found.begun)} of them begun" if found.begun else ""
        yield f"{left} of {len(found.plan.seeds)} planned seeds are not finished{begun}."
