"""What a comparison does not show, read off the facts of this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tandem.bench.details import gold_details
from tandem.bench.finished import Finished
from tandem.tasks.load import describe_people, has_shipped_gold


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
    if plan.task == "constraints":
        yield (
            "The truth is the share of constraints that a program finds kept. It says nothing of "
            "what an answer says, so an empty phrase that keeps them all is as good as a fine one."
        )
    if plan.task is not None:
        yield describe_people(plan.task, plan.sizes)
    yield (
        "Every method met the same prompts, labels and starting point; seconds and samples were "
        "not equal, and are columns of the table."
    )


def _judges(found: Finished) -> Iterator[str]:
    if found.judge == "gold_rm":
        yield "Nobody knows the truth about this data: gold_rm decides, and it can be wrong."
    if found.judge == "proxy":
        yield (
            "Nobody knows the truth about this data and there is no gold_rm, so the proxy decides: "
            "the reward that was optimised, whose wins overstate every method that climbs it."
        )
    yield from _gold(found)
    if "proxy" in found.main:
        yield (
            "proxy is the reward model fitted to the first preferences, in every row; a method "
            "that fits a ranker or a reward of its own optimised that one."
        )
    if "llm_win" in found.main:
        yield "The language model that compares answers is the model before training."


def _gold(found: Finished) -> Iterator[str]:
    """Say what gold_rm is, how often it is right, and what it shares with the proxy."""
    told, shipped = gold_details(found), has_shipped_gold(found.plan.task or "")
    if "gold_rm" not in found.main:
        if told is not None:
            which = "the task's own" if shipped else "fitted to what was held back for it, it"
            yield (
                f"There is no gold_rm: {which} is right on "
                f"{_rate(told['accuracy'])} of {told['judgments']} held-out comparisons, no "
                "better than a coin."
            )
        return
    what = (
        "gold_rm is larger than the proxy and was fitted to other people's comparisons of other "
        "answers; it comes with the task. It shares with the proxy the base that both grew from."
        if shipped
        else "gold_rm was fitted to comparisons that were held back for it, from the model before "
        "SFT. It has the proxy's size, so what neither can see is hidden from both."
    )
    right = ""
    if told is not None:
        right = f" It is right on {_rate(told['accuracy'])} of {told['judgments']} held-out ones."
    yield what + right


def _rate(measured: Mapping[str, Any]) -> str:
    ends = [measured["low"], measured["high"]]
    told = "" if None in ends else f" [{ends[0]:.1%}, {ends[1]:.1%}]"
    return f"{measured['mean']:.1%}{told}"


def _rows(found: Finished) -> Iterator[str]:
    if any(e.method == "best_of_n" for e in found.plan.entries):
        yield "The KL of best-of-n is its bound, log n - (n - 1)/n, and no estimate."
    for name in found.failed:
        yield f"{name} failed, so nothing here is about it."


def _seeds(found: Finished) -> Iterator[str]:
    plan = found.plan
    if plan.fewest_seeds is not None:
        yield (
            f"Seeds were added after the first {plan.fewest_seeds} until every claim was resolved, "
            f"{len(plan.seeds)} at most: intervals of policies and claims hold whenever one stops "
            "(docs/adr/0019). Those of the reward's page and of wins by length do not."
        )
    if len(found.seeds) > 1:
        yield (
            "Intervals are for seed effects that are about normal: a seed that diverged is named "
            "in its row, and no interval covers it."
        )
        yield (
            f"Samples, the reward model's page and the drawing of lengths are of seed "
            f"{found.seeds[0]} alone."
        )
    left = len(plan.seeds) - len(found.seeds) if plan.fewest_seeds is None else len(found.begun)
    if left:
        begun = f", {len(found.begun)} of them begun" if found.begun else ""
        yield f"{left} of {len(found.plan.seeds)} planned seeds are not finished{begun}."
