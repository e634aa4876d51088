"""When two summaries of the micro task mean the same: when they claim the same facts."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.data.record import Group
from tandem.judges.agreement import Clusterer, cluster_by_key
from tandem.machine import Machine
from tandem.tasks.micro.annotators import known_facts
from tandem.tasks.micro.truth import claimed_meaning


@dataclass(frozen=True)
class SameFacts:
    """Completions are the same if they claim the same, in whatever order and words.

    The exact notion that an entailment classifier learns: facts of a summary, what a reply
    advises, the stated answer of a word problem.
    """

    def open(self, machine: Machine) -> Clusterer:
        """Nothing to load."""
        return cluster_by_key(
            lambda prompt, text: claimed_meaning(known_facts(Group(prompt)), text)
        )
