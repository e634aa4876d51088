"""What is said when many answers reach the sampling limit before they end."""

from __future__ import annotations

from tandem.runs.events import Events

MOST_CUT = 0.2
"""Share of the answers that may be cut without a word."""


def log_cut_answers(events: Events, cut: int, drawn: int, limit: int) -> None:
    """Say that answers were cut, where they were many.

    Args:
        events: the stage's.
        cut: answers that reached the limit.
        drawn: all answers.
        limit: tokens of an answer at most.
    """
    if cut <= MOST_CUT * drawn:
        return
    text = (
        f"{cut / drawn:.0%} of {drawn:,} answers were cut after {limit} tokens. They are judged, "
        "and may be learned from, as if they ended there: give a larger sampling.max_tokens"
    )
    events.log("cut-answers", text=text, cut=cut, drawn=drawn)
