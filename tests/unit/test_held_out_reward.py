"""Who may choose a policy: a reward fitted to held-out comparisons, where it has proven itself."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.judges.reward_model import RewardModel
from tandem.methods import load_method
from tandem.methods.cai import CAIConfig
from tandem.methods.rlaif import RLAIFConfig
from tandem.methods.rso import RSOConfig
from tandem.pipeline.inputs import Inputs
from tandem.pipeline.quick import warn_of_weak_reward
from tandem.runs.checkpoint import Checkpoint
from tandem.tasks import Sizes
from tandem.tasks.load import load_task

COMPARED = Groups.of(
    [Group(Prompt("a", "?"), (Completion("x"), Completion("y")), None, (Preference(0, 1, 1.0),))]
)
FEW = Sizes(demonstrations=2, pairs=2, held_out=2, prompts=2, evaluation=2)


class Recorder:
    """A run that makes nothing: it notes stages and what is said, and every exam finds `low`."""

    def __init__(self, low: float | None) -> None:
        self.low = low
        self.called: list[str] = []
        self.said: list[str] = []
        self.events = SimpleNamespace(log=lambda kind, text="", **_: self.said.append(text))

    def __call__(self, stage: str, *_: Any, **__: Any) -> Any:
        self.called.append(stage)
        if stage.endswith("exam"):
            return {"numbers": {"judgments": 9, "measures": {"accuracy": {"low": self.low}}}}
        if stage in ("sft", "reward", "reward-held"):
            return Checkpoint(FEW_TASK.base.path, stage)
        return COMPARED

    def records(self) -> list[Any]:
        return []


FEW_TASK = load_task("micro", FEW)


def opened(low: float | None, **changes: Any) -> Inputs:
    method = load_method("ppo")
    configs = {n: load_method(n).config() for n in ("sft", "reward", "ppo")}
    configs["sampling"] = SimpleNamespace(max_tokens=4)
    task = replace(FEW_TASK, gold=None, **changes)
    assert method.name in configs
    return Inputs(Recorder(low), task, configs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "proven"), [(0.55, True), (0.5, False), (0.4, False), (None, False)]
)
def test_a_held_out_reward_chooses_only_where_it_beats_a_coin(low, proven):
    inputs = opened(low)
    assert inputs.is_held_out_proven == proven
    assert any("the last policy is kept" in text for text in inputs.run.said) != proven  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["rlaif", "cai", "nash_md", "sppo", "self_play"])
def test_methods_that_keep_their_last_policy_examine_no_reward_for_it(name):
    assert not load_method(name).config.chooses_policy
    assert opened(0.9).watch.choose is None
    assert opened(0.9).validation.choose == "held_out"


def test_a_test_set_never_chooses_what_is_tested_on_it():
    assert not opened(0.9, has_test_set=True).is_held_out_proven


@pytest.mark.parametrize(("low", "warned"), [(0.55, False), (0.48, True), (None, True)])
def test_a_reward_that_knows_nothing_is_named_before_it_is_climbed(low, warned):
    inputs = opened(low)
    warn_of_weak_reward(inputs, load_method("ppo"))
    assert any("climbs noise" in text for text in inputs.run.said) == warned  # type: ignore[attr-defined]
    given = replace(inputs, given_reward=RewardModel(FEW_TASK.base))
    given.run.called.clear()  # type: ignore[attr-defined]
    warn_of_weak_reward(given, load_method("ppo"))
    assert given.run.called == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "cfg", "unread"),
    [
        ("rso", RSOConfig(), {"r_phi"}),
        ("rso", RSOConfig(ranker="reward"), set()),
        ("rso", RSOConfig(ranker="reward", source="direct"), {"r_phi"}),
        ("rlaif", RLAIFConfig(learn="dpo"), {"validation"}),
        ("rlaif", RLAIFConfig(), set()),
        ("cai", CAIConfig(learn="sl"), {"validation"}),
        ("cai", CAIConfig(rlaif=RLAIFConfig(learn="dpo")), {"validation"}),
    ],
)
def test_what_settings_leave_unread_is_not_made(name, cfg, unread):
    method = load_method(name)
    assert set(method.inputs) - method.read_inputs(cfg) == unread
