"""Tandem: turn preferences into better language models.

Five verbs over one record: sample completions, judge them, select among them, fit a model on
what is left, and repeat. A method is a short recipe of these verbs, one file each.

    from tandem import Run, evaluate, judge, load_task, sample
    from tandem.methods import dpo, sft

What is public is listed in `__all__`. Names are looked up when they are asked for: importing this
package loads no torch, and only a name that needs it does (`encode`, `sample`, `judge`, the
judges that are models, `objectives`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem import methods, objectives, operators, statistics
    from tandem.data.formats.reader import read_data
    from tandem.data.formats.writer import write_data
    from tandem.data.groups import Groups
    from tandem.data.record import Completion, Group, Preference, Prompt
    from tandem.engines import Sampling
    from tandem.engines.json_server import JsonServer
    from tandem.engines.language_models.local import LocalModel
    from tandem.engines.language_models.openai import Server
    from tandem.errors import (
        ConfigError,
        DataError,
        EngineError,
        JudgeError,
        ModelError,
        Pending,
        RunError,
        TandemError,
    )
    from tandem.judges import Judge
    from tandem.judges.agreement import Agreement
    from tandem.judges.answer_key import AnswerKey
    from tandem.judges.ensemble import Ensemble
    from tandem.judges.llm import Labeller, Rater
    from tandem.judges.preference_model import PreferenceModel
    from tandem.judges.reasoning import ReasoningJudge
    from tandem.judges.remote_reward import RemotePreference, RemoteReward
    from tandem.judges.reward_model import RewardModel
    from tandem.machine import Lora, Machine
    from tandem.models.model_finder import find_model
    from tandem.rng import Seed
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.context import StageContext, every_rank
    from tandem.runs.names import record_as
    from tandem.runs.run import Run
    from tandem.stages.encoding import encode
    from tandem.stages.evaluate_policy import evaluate
    from tandem.stages.judging import judge
    from tandem.stages.sampling import BestOf, sample
    from tandem.stages.selection import select
    from tandem.tasks import Sizes, Task
    from tandem.tasks.load import load_task
    from tandem.tasks.own_data import task_from_files

__version__ = "0.1.0"

__all__ = [
    # the record
    "Prompt",
    "Completion",
    "Preference",
    "Group",
    "Groups",
    "read_data",
    "write_data",
    # a run
    "Run",
    "Checkpoint",
    "Seed",
    "Machine",
    "Lora",
    "Sampling",
    "StageContext",
    "every_rank",
    "record_as",
    # the verbs, as stages of a run; `fit` is each method's own
    "encode",
    "sample",
    "judge",
    "select",
    "evaluate",
    "BestOf",
    # who judges
    "Judge",
    "RewardModel",
    "PreferenceModel",
    "Ensemble",
    "Labeller",
    "Rater",
    "ReasoningJudge",
    "RemoteReward",
    "RemotePreference",
    "Agreement",
    "AnswerKey",
    "LocalModel",
    "Server",
    "JsonServer",
    # where it starts
    "find_model",
    "Task",
    "Sizes",
    "load_task",
    "task_from_files",
    # what can go wrong
    "TandemError",
    "ConfigError",
    "DataError",
    "ModelError",
    "JudgeError",
    "EngineError",
    "RunError",
    "Pending",
    # packages
    "methods",
    "objectives",
    "operators",
    "statistics",
]

_NAMES_OF = {
    "data.record": ("Prompt", "Completion", "Preference", "Group"),
    "data.groups": ("Groups",),
    "data.formats.reader": ("read_data",),
    "data.formats.writer": ("write_data",),
    "runs.run": ("Run",),
    "runs.checkpoint": ("Checkpoint",),
    "runs.context": ("StageContext", "every_rank"),
    "runs.names": ("record_as",),
    "rng": ("Seed",),
    "machine": ("Machine", "Lora"),
    "engines": ("Sampling",),
    "engines.json_server": ("JsonServer",),
    "engines.language_models.local": ("LocalModel",),
    "engines.language_models.openai": ("Server",),
    "stages.encoding": ("encode",),
    "stages.sampling": ("sample", "BestOf"),
    "stages.judging": ("judge",),
    "stages.selection": ("select",),
    "stages.evaluate_policy": ("evaluate",),
    "judges": ("Judge",),
    "judges.reward_model": ("RewardModel",),
    "judges.preference_model": ("PreferenceModel",),
    "judges.ensemble": ("Ensemble",),
    "judges.llm": ("Labeller", "Rater"),
    "judges.reasoning": ("ReasoningJudge",),
    "judges.remote_reward": ("RemoteReward", "RemotePreference"),
    "judges.agreement": ("Agreement",),
    "judges.answer_key": ("AnswerKey",),
    "models.model_finder": ("find_model",),
    "tasks": ("Task", "Sizes"),
    "tasks.load": ("load_task",),
    "tasks.own_data": ("task_from_files",),
    "errors": (
        "TandemError",
        "ConfigError",
        "DataError",
        "ModelError",
        "JudgeError",
        "EngineError",
        "RunError",
        "Pending",
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}
_PACKAGES = ("methods", "objectives", "operators", "statistics")


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is asked for."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
