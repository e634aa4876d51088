"""Published evaluations, one file each: its prompts, what judges, its scoring rule.

    rewardbench2   a reward: is the right answer of four on top; ties by a formula of their own
    llmbar         a judge of pairs: does it see which output follows the instruction
    vicuna         a policy against another on 80 questions, by category
    alpaca-eval    a policy against reference outputs, also at equal length

`tandem eval suite NAME` runs them on data of the hub or of a file. No torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tandem.errors import ConfigError, nearest_name


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found.

    Attributes:
        text: tables for people.
        numbers: the same for JSON.
    """

    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Suite:
    """An evaluation by its name.

    Attributes:
        name: on the command line.
        title: as its paper calls it, with the paper.
        examines: a `judge` (reward model, labeller), or a `policy` that answers.
        data: hub id of its data; "" where a file has to be given.
        rule: its scoring function, `module:function`.
    """

    name: str
    title: str
    examines: Literal["judge", "policy"]
    data: str
    rule: str

    def load_rule(self) -> Callable[..., SuiteResult]:
        """Import the suite's scoring function."""
        module, _, function = self.rule.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), function)


SUITES: dict[str, Suite] = {
    s.name: s
    for s in (
        Suite(
            "rewardbench2",
            "RewardBench 2 (Malik et al. 2025, arXiv:2506.01937)",
            "judge",
            "allenai/reward-bench-2",
            "rewardbench2:score_rewards",
        ),
        Suite(
            "llmbar",
            "LLMBar (Zeng et al. 2024, arXiv:2310.07641)",
            "judge",
            "",
            "llmbar:score_labels",
        ),
        Suite(
            "vicuna",
            "Vicuna's 80 questions (Chiang et al. 2023)",
            "policy",
            "",
            "vicuna:score_by_category",
        ),
        Suite(
            "alpaca-eval",
            "AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475)",
            "policy",
            "",
            "alpaca_eval:score_by_dataset",
        ),
    )
}


def find_suite(name: str) -> Suite:
    """Return a suite by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SUITES:
        raise ConfigError(
            f"there is no suite {name!r}.{nearest_name(name, SUITES)}",
            "a suite is a published evaluation that Tandem knows",
            f"name one of: {', '.join(SUITES)}",
        )
    return SUITES[name]
