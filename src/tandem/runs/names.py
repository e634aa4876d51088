"""Names under which a run folder records functions and classes, whatever file they live in.

A stage is found again by its function, its arguments and its seed. Files, functions and
parameters may be renamed; what was recorded may not. So a run folder holds the public names on
the left of `RECORDED`, and old folders are read through `FORMER` and `RENAMED`.

A name that is not in the table is that of a caller's own function or class: it is recorded by its
module, and a value of such a class is only read back where the class was given to `record_as`.
Nothing is ever imported because a file says so.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import FunctionType
from typing import Any, TypeVar, cast

from tandem.errors import RunError

K = TypeVar("K", bound=type)

RECORDED: dict[str, str] = {
    "encode": "tandem.stages.encoding.encode",
    "ask_questions": "tandem.stages.encoding.ask_questions",
    "sample": "tandem.stages.sampling.sample",
    "judge": "tandem.stages.judging.judge",
    "select": "tandem.stages.selection.select",
    "merge": "tandem.stages.combining.merge",
    "mix": "tandem.stages.combining.mix",
    "logprobs": "tandem.stages.judging.logprobs",
    "BestOf": "tandem.stages.sampling.BestOf",
    "evaluate_reward": "tandem.stages.evaluate_reward.evaluate_reward",
    "evaluate_learning_curve": "tandem.stages.evaluate_reward.evaluate_learning_curve",
    "evaluate_preferences": "tandem.stages.evaluate_reward.evaluate_preferences",
    "evaluate_held_out": "tandem.stages.evaluate_held_out.evaluate_held_out",
    "evaluate_marks": "tandem.stages.evaluate_marks.evaluate_marks",
    "evaluate_policies": "tandem.stages.evaluate_policy.evaluate_policies",
    "evaluate": "tandem.stages.evaluate_policy.evaluate",
    "evaluate_exploitability": "tandem.stages.evaluate_exploitability.evaluate_exploitability",
    "evaluate_cycles": "tandem.stages.evaluate_cycles.evaluate_cycles",
    "evaluate_win_matrix": "tandem.stages.evaluate_exploitability.evaluate_win_matrix",
    "evaluate_answers": "tandem.stages.evaluate_policy.evaluate_answers",
    "evaluate_solutions": "tandem.stages.evaluate_solutions.evaluate_solutions",
    "DecodingRule": "tandem.stages.evaluate_solutions.DecodingRule",
    "evaluate_reward_shift": "tandem.stages.reward_shift.evaluate_reward_shift",
    "evaluate_pseudo_labels": "tandem.stages.reward_shift.evaluate_pseudo_labels",
    "validate_policy": "tandem.stages.early_stopping.validate_policy",
    "ValidatedPolicy": "tandem.stages.early_stopping.ValidatedPolicy",
    "Validation": "tandem.training.validation.Validation",
    "Sampling": "tandem.engines.Sampling",
    "LocalModel": "tandem.engines.language_models.local.LocalModel",
    "Server": "tandem.engines.language_models.openai.Server",
    "RetryPolicy": "tandem.engines.language_models.retry.RetryPolicy",
    "Optim": "tandem.training.optim.Optim",
    "Machine": "tandem.machine.Machine",
    "Lora": "tandem.machine.Lora",
    "EncodingRules": "tandem.data.chat.encoding_rules.EncodingRules",
    "Seed": "tandem.rng.Seed",
    "Prompt": "tandem.data.record.Prompt",
    "Completion": "tandem.data.record.Completion",
    "Preference": "tandem.data.record.Preference",
    "Group": "tandem.data.record.Group",
    "Checkpoint": "tandem.runs.checkpoint.Checkpoint",
    "PromptStyle": "tandem.data.verifiable.PromptStyle",
    "QuestionFormat": "tandem.data.verifiable.QuestionFormat",
    "StatedAnswer": "tandem.data.verifiable.StatedAnswer",
    "AnswerParser": "tandem.data.verifiable.AnswerParser",
    "Counts": "tandem.data.chat.truncate.Counts",
    "SameText": "tandem.judges.agreement.SameText",
    "SameAnswer": "tandem.judges.agreement.SameAnswer",
    "Agreement": "tandem.judges.agreement.Agreement",
    "AnswerKey": "tandem.judges.answer_key.AnswerKey",
    "AIFeedback": "tandem.judges.ai_feedback.AIFeedback",
    "Ensemble": "tandem.judges.ensemble.Ensemble",
    "Debiased": "tandem.judges.ensemble.Debiased",
    "PositionBias": "tandem.judges.position_bias.PositionBias",
    "position_bias": "tandem.judges.position_bias.position_bias",
    "Labeller": "tandem.judges.llm.Labeller",
    "ReasoningJudge": "tandem.judges.reasoning.ReasoningJudge",
    "VerdictFormat": "tandem.judges.verdicts.VerdictFormat",
    "JsonServer": "tandem.engines.json_server.JsonServer",
    "RemoteReward": "tandem.judges.remote_reward.RemoteReward",
    "RemotePreference": "tandem.judges.remote_reward.RemotePreference",
    "Rater": "tandem.judges.llm.Rater",
    "Entailment": "tandem.judges.semantic.Entailment",
    "Embedding": "tandem.judges.semantic.Embedding",
    "RewardModel": "tandem.judges.reward_model.RewardModel",
    "ImplicitReward": "tandem.judges.reward_model.ImplicitReward",
    "Shaped": "tandem.judges.reward_model.Shaped",
    "PreferenceModel": "tandem.judges.preference_model.PreferenceModel",
    "Pointwise": "tandem.judges.preference_model.Pointwise",
    "revise": "tandem.stages.revise.revise",
    "CompareFormat": "tandem.judges.templates.CompareFormat",
    "RateFormat": "tandem.judges.templates.RateFormat",
    "ReviseFormat": "tandem.judges.templates.ReviseFormat",
    "FeedbackFormats": "tandem.judges.templates.FeedbackFormats",
    "asks": "tandem.operators.prompts.asks",
    "rank_pairs": "tandem.operators.compare.rank_pairs",
    "synthetic_pairs": "tandem.operators.compare.synthetic_pairs",
    "shuffled_clusters": "tandem.operators.compare.shuffled_clusters",
    "clean_pairs": "tandem.operators.compare.clean_pairs",
    "best": "tandem.operators.keep.best",
    "above": "tandem.operators.keep.above",
    "top_share": "tandem.operators.keep.top_share",
    "rejection": "tandem.operators.keep.rejection",
    "distinct": "tandem.operators.keep.distinct",
    "majority": "tandem.operators.keep.majority",
    "correct": "tandem.operators.keep.correct",
    "incorrect": "tandem.operators.keep.incorrect",
    "unpair": "tandem.operators.unpairing.unpair",
    "mismatch": "tandem.operators.unpairing.mismatch",
    "PairSeparator": "tandem.data.pair_sequences.PairSeparator",
    "RolloutShape": "tandem.training.rollouts.RolloutShape",
    "MultiViewConfig": "tandem.training.multiview.MultiViewConfig",
    "Solver": "tandem.pipeline.evaluate_result.Solver",
    "Estimate": "tandem.statistics.intervals.Estimate",
    "Table": "tandem.evaluation.tables.Table",
    "log_tilting": "tandem.stages.selection.log_tilting",
    "log_above_mean": "tandem.stages.selection.log_above_mean",
    "Trend": "tandem.evaluation.reward_hacking.Trend",
    "Diagnosis": "tandem.evaluation.reward_hacking.Diagnosis",
    "Sizes": "tandem.tasks.Sizes",
    "Micro": "tandem.tasks.micro.Micro",
    "SameFacts": "tandem.tasks.micro.same_facts.SameFacts",
    "Truth": "tandem.tasks.micro.annotators.Truth",
    "Annotator": "tandem.tasks.micro.annotators.Annotator",
    "Camps": "tandem.tasks.micro.annotators.Camps",
    "TranslationRater": "tandem.tasks.micro.annotators.TranslationRater",
    "Tastes": "tandem.tasks.micro.annotators.Tastes",
    "Drifting": "tandem.tasks.micro.annotators.Drifting",
    "DriftingTruth": "tandem.tasks.micro.annotators.DriftingTruth",
    "Skill": "tandem.tasks.micro.skills.Skill",
    "Quality": "tandem.tasks.micro.posts.Quality",
    "Manner": "tandem.tasks.micro.dialogue.Manner",
    "Stratum": "tandem.tasks.micro.arithmetic.Stratum",
    "ConstraintTruth": "tandem.tasks.constraints.annotators.ConstraintTruth",
    "ConstraintAnnotator": "tandem.tasks.constraints.annotators.ConstraintAnnotator",
    "ConstraintRater": "tandem.tasks.constraints.annotators.ConstraintRater",
    "price_of_n": "tandem.methods.best_of_n.price_of_n",
    "BestOfNConfig": "tandem.methods.best_of_n.BestOfNConfig",
    "only_questions": "tandem.methods.lmsi.only_questions",
    "in_forms": "tandem.methods.lmsi.in_forms",
    "LMSIConfig": "tandem.methods.lmsi.LMSIConfig",
    "under_prompts": "tandem.methods.star.under_prompts",
    "STaRConfig": "tandem.methods.star.STaRConfig",
    "with_stated_answer": "tandem.methods.direct.with_stated_answer",
    "DirectConfig": "tandem.methods.direct.DirectConfig",
    "stage_prompts": "tandem.methods.raft.stage_prompts",
    "RAFTConfig": "tandem.methods.raft.RAFTConfig",
    "ReSTConfig": "tandem.methods.rest.ReSTConfig",
    "RSOConfig": "tandem.methods.rso.RSOConfig",
    "RLAIFConfig": "tandem.methods.rlaif.RLAIFConfig",
    "RLPConfig": "tandem.methods.rlp.RLPConfig",
    "CAIConfig": "tandem.methods.cai.CAIConfig",
    "first_two": "tandem.methods.controls.first_two",
    "sft.fit": "tandem.methods.sft.fit",
    "SFTConfig": "tandem.methods.sft.SFTConfig",
    "reward.fit": "tandem.methods.reward.fit",
    "RewardConfig": "tandem.methods.reward.RewardConfig",
    "preference.fit": "tandem.methods.preference.fit",
    "PreferenceConfig": "tandem.methods.preference.PreferenceConfig",
    "cyclic_preference.fit": "tandem.methods.cyclic_preference.fit",
    "CyclicPreferenceConfig": "tandem.methods.cyclic_preference.CyclicPreferenceConfig",
    "nash.fit": "tandem.methods.nash_md.fit",
    "NashMDConfig": "tandem.methods.nash_md.NashMDConfig",
    "NashEMAConfig": "tandem.methods.nash_ema.NashEMAConfig",
    "SelfPlayConfig": "tandem.methods.self_play.SelfPlayConfig",
    "BestResponseConfig": "tandem.methods.best_response.BestResponseConfig",
    "PastPlayConfig": "tandem.methods.past_play.PastPlayConfig",
    "ipo_md.fit": "tandem.methods.ipo_md.fit",
    "IPOMDConfig": "tandem.methods.ipo_md.IPOMDConfig",
    "sppo.fit": "tandem.methods.sppo.fit",
    "SPPOConfig": "tandem.methods.sppo.SPPOConfig",
    "dpo.fit": "tandem.methods.dpo.fit",
    "DPOConfig": "tandem.methods.dpo.DPOConfig",
    "kto.fit": "tandem.methods.kto.fit",
    "KTOConfig": "tandem.methods.kto.KTOConfig",
    "ppo.fit": "tandem.methods.ppo.fit",
    "PPOConfig": "tandem.methods.ppo.PPOConfig",
    "grpo.fit": "tandem.methods.grpo.fit",
    "GRPOConfig": "tandem.methods.grpo.GRPOConfig",
    "online_dpo.fit": "tandem.methods.online_dpo.fit",
    "OnlineDPOConfig": "tandem.methods.online_dpo.OnlineDPOConfig",
    "xpo.fit": "tandem.methods.xpo.fit",
    "XPOConfig": "tandem.methods.xpo.XPOConfig",
    "IteratedRLHFConfig": "tandem.methods.iterated_rlhf.IteratedRLHFConfig",
    "portion_of": "tandem.stages.tranches.portion_of",
    "questions_of": "tandem.stages.tranches.questions_of",
    "meet_policies": "tandem.stages.evaluate_rounds.meet_policies",
    "evaluate_rounds": "tandem.stages.evaluate_rounds.evaluate_rounds",
    "select_pairs": "tandem.stages.pair_pool.select_pairs",
    "HumanVotes": "tandem.judges.human.HumanVotes",
    "IterativeDPOConfig": "tandem.methods.iterative_dpo.IterativeDPOConfig",
}
"""Recorded name -> where the thing lives today."""

RENAMED: dict[str, dict[str, str]] = {
    "sample": {"how": "sampling"},
    "validate_policy": {"watching": "validation", "how": "sampling"},
    "ValidatedPolicy": {"numbers": "metrics"},
    "RolloutShape": {"inner": "epochs"},
    "revise": {"how": "sampling"},
    "log_tilting": {"how": "rule"},
    "log_above_mean": {"how": "rule"},
    "with_stated_answer": {"x": "prompts"},
    "stage_prompts": {"x": "prompts"},
    "ppo.fit": {"how": "sampling", "watching": "validation"},
    "grpo.fit": {"how": "sampling", "watching": "validation"},
}
"""Recorded name -> its parameters or fields that had another name: former -> today's."""

ADDED: dict[str, dict[str, Any]] = {
    "evaluate_policies": {"temperature": 1.0},
    "evaluate_answers": {"temperature": 1.0},
    "evaluate_rounds": {"temperature": 1.0},
    "logprobs": {"temperature": 1.0},
    "ImplicitReward": {"temperature": 1.0},
    "Shaped": {"temperature": 1.0},
    "RewardConfig": {"margins": False, "bound": 10.0},
    "DPOConfig": {"bound": None},
    "GRPOConfig": {"overlong": 0.0},
}
"""Recorded name -> parameters or fields that came later, at values that change nothing."""

# Below: what folders of version 0.1 hold. These names are frozen.
FORMER: dict[str, str] = {
    "tandem.stages.encode": "encode",
    "tandem.stages.ask": "ask_questions",
    "tandem.stages.sample": "sample",
    "tandem.stages.judge": "judge",
    "tandem.stages.select": "select",
    "tandem.stages.merge": "merge",
    "tandem.stages.mix": "mix",
    "tandem.stages.reference": "logprobs",
    "tandem.stages.BestOf": "BestOf",
    "tandem.exams.examine_reward": "evaluate_reward",
    "tandem.exams.examine_curve": "evaluate_learning_curve",
    "tandem.exams.examine_preferences": "evaluate_preferences",
    "tandem.exams.examine_policies": "evaluate_policies",
    "tandem.exams.examine_answers": "evaluate_answers",
    "tandem.exams.examine_solutions": "evaluate_solutions",
    "tandem.exams.Decoder": "DecodingRule",
    "tandem.on_policy.examine_rewards": "evaluate_reward_shift",
    "tandem.on_policy.examine_labels": "evaluate_pseudo_labels",
    "tandem.held_out.look": "validate_policy",
    "tandem.held_out.Seen": "ValidatedPolicy",
    "tandem.climb.Watching": "Validation",
    "tandem.engines.Sampling": "Sampling",
    "tandem.engines.local.LocalModel": "LocalModel",
    "tandem.engines.openai.Server": "Server",
    "tandem.engines.patience.Patience": "RetryPolicy",
    "tandem.loop.Optim": "Optim",
    "tandem.machine.Machine": "Machine",
    "tandem.machine.Lora": "Lora",
    "tandem.rng.Seed": "Seed",
    "tandem.groups.Prompt": "Prompt",
    "tandem.groups.Completion": "Completion",
    "tandem.groups.Preference": "Preference",
    "tandem.groups.Group": "Group",
    "tandem.artifacts.Checkpoint": "Checkpoint",
    "tandem.answers.Form": "PromptStyle",
    "tandem.answers.Wording": "QuestionFormat",
    "tandem.answers.StatedAnswer": "StatedAnswer",
    "tandem.answers.Read": "AnswerParser",
    "tandem.chat.lengths.Counts": "Counts",
    "tandem.judges.agreement.Exact": "SameText",
    "tandem.judges.agreement.Stated": "SameAnswer",
    "tandem.judges.agreement.Agreement": "Agreement",
    "tandem.judges.answers.AnswerKey": "AnswerKey",
    "tandem.judges.asking.Asking": "AIFeedback",
    "tandem.judges.ensemble.Ensemble": "Ensemble",
    "tandem.judges.ensemble.Debiased": "Debiased",
    "tandem.judges.labelling.Labelling": "PositionBias",
    "tandem.judges.labelling.report": "position_bias",
    "tandem.judges.llm.Labeller": "Labeller",
    "tandem.judges.llm.Rater": "Rater",
    "tandem.judges.meaning.Entailment": "Entailment",
    "tandem.judges.meaning.Embedding": "Embedding",
    "tandem.judges.models.RewardModel": "RewardModel",
    "tandem.judges.models.ImplicitReward": "ImplicitReward",
    "tandem.judges.models.Shaped": "Shaped",
    "tandem.judges.preference_model.PreferenceModel": "PreferenceModel",
    "tandem.judges.preference_model.Pointwise": "Pointwise",
    "tandem.judges.revising.revise": "revise",
    "tandem.judges.templates.Compare": "CompareFormat",
    "tandem.judges.templates.Rate": "RateFormat",
    "tandem.judges.templates.Revise": "ReviseFormat",
    "tandem.judges.templates.Formats": "FeedbackFormats",
    "tandem.operators.asked.asks": "asks",
    "tandem.operators.compare.rank_pairs": "rank_pairs",
    "tandem.operators.compare.synthetic_pairs": "synthetic_pairs",
    "tandem.operators.compare.shuffled_clusters": "shuffled_clusters",
    "tandem.operators.compare.clean_pairs": "clean_pairs",
    "tandem.operators.keep.best": "best",
    "tandem.operators.keep.above": "above",
    "tandem.operators.keep.top_share": "top_share",
    "tandem.operators.keep.rejection": "rejection",
    "tandem.operators.keep.majority": "majority",
    "tandem.operators.keep.correct": "correct",
    "tandem.operators.keep.incorrect": "incorrect",
    "tandem.operators.unpaired.unpair": "unpair",
    "tandem.operators.unpaired.mismatch": "mismatch",
    "tandem.ordered.Seam": "PairSeparator",
    "tandem.online.Rounds": "RolloutShape",
    "tandem.views.UML": "MultiViewConfig",
    "tandem.solving.Solver": "Solver",
    "tandem.statistics.intervals.Estimate": "Estimate",
    "tandem.evaluation.tables.Table": "Table",
    "tandem.evaluation.tilting.tilted": "log_tilting",
    "tandem.evaluation.thresholds.above_mean": "log_above_mean",
    "tandem.hacking.Trend": "Trend",
    "tandem.hacking.Diagnosis": "Diagnosis",
    "tandem.tasks.Sizes": "Sizes",
    "tandem.tasks.micro.Micro": "Micro",
    "tandem.tasks.micro.agreement.Facts": "SameFacts",
    "tandem.tasks.micro.annotators.Truth": "Truth",
    "tandem.tasks.micro.annotators.Annotator": "Annotator",
    "tandem.tasks.micro.annotators.Camps": "Camps",
    "tandem.tasks.micro.annotators.Drifting": "Drifting",
    "tandem.tasks.micro.splits.Skill": "Skill",
    "tandem.tasks.micro.posts.Quality": "Quality",
    "tandem.tasks.micro.dialogue.Manner": "Manner",
    "tandem.tasks.micro.arithmetic.Stratum": "Stratum",
    "tandem.methods.best_of_n.price": "price_of_n",
    "tandem.methods.best_of_n.BestOfN": "BestOfNConfig",
    "tandem.methods.lmsi.only_questions": "only_questions",
    "tandem.methods.lmsi.in_forms": "in_forms",
    "tandem.methods.lmsi.LMSI": "LMSIConfig",
    "tandem.methods.star.under": "under_prompts",
    "tandem.methods.star.STaR": "STaRConfig",
    "tandem.methods.direct.stated": "with_stated_answer",
    "tandem.methods.direct.Direct": "DirectConfig",
    "tandem.methods.raft.portion": "stage_prompts",
    "tandem.methods.raft.RAFT": "RAFTConfig",
    "tandem.methods.rest.ReST": "ReSTConfig",
    "tandem.methods.rso.RSO": "RSOConfig",
    "tandem.methods.rlaif.RLAIF": "RLAIFConfig",
    "tandem.methods.rlp.RLP": "RLPConfig",
    "tandem.methods.cai.CAI": "CAIConfig",
    "tandem.methods.controls.first_two": "first_two",
    "tandem.methods.sft.fit": "sft.fit",
    "tandem.methods.sft.SFT": "SFTConfig",
    "tandem.methods.reward.fit": "reward.fit",
    "tandem.methods.reward.Reward": "RewardConfig",
    "tandem.methods.preference.fit": "preference.fit",
    "tandem.methods.preference.Preference": "PreferenceConfig",
    "tandem.methods.dpo.fit": "dpo.fit",
    "tandem.methods.dpo.DPO": "DPOConfig",
    "tandem.methods.kto.fit": "kto.fit",
    "tandem.methods.kto.KTO": "KTOConfig",
    "tandem.methods.ppo.fit": "ppo.fit",
    "tandem.methods.ppo.PPO": "PPOConfig",
    "tandem.methods.grpo.fit": "grpo.fit",
    "tandem.methods.grpo.GRPO": "GRPOConfig",
}
"""Name in folders of version 0.1 -> recorded name."""

_HOMES = {home: name for name, home in RECORDED.items()}
_OWN: dict[str, type] = {}


def record_as(name: str) -> Callable[[K], K]:
    """Let a run keep values of your own dataclass, under a name of its own.

        @record_as("my_project.Score")
        @dataclass(frozen=True)
        class Score: ...

    Args:
        name: stays the same when the class moves; not one of Tandem's.
    """

    def register(kind: K) -> K:
        _OWN[name] = kind
        return kind

    return register


def recorded_name(thing: type | FunctionType) -> str:
    """Return the name that a run folder holds for a function or a class."""
    home = f"{thing.__module__}.{thing.__qualname__}"
    for name, kind in _OWN.items():
        if kind is thing:
            return name
    return _HOMES.get(home, home)


def is_known(kind: type) -> bool:
    """True for classes of which a run keeps values: Tandem's, and those given to `record_as`."""
    name = recorded_name(kind)
    return name in RECORDED or name in _OWN


def find_recorded(name: str) -> type:
    """Return the class that a run folder names.

    A folder may come from a stranger, so a name that is a function's finds nothing: making a value
    calls what is found here.

    Raises:
        RunError: it is no value class of Tandem's, and none that was given to `record_as`.
    """
    name = FORMER.get(name, name)
    if name in _OWN:
        return _OWN[name]
    if name in RECORDED:
        module, _, attribute = RECORDED[name].rpartition(".")
        kind = getattr(importlib.import_module(module), attribute)
        if isinstance(kind, type) and is_dataclass(kind):
            return kind
    raise RunError(
        f"a stage holds a value of the class {name!r}",
        "a run folder is data: only Tandem's own classes are made from it, and those that "
        "your program gave to `record_as`",
        "import the module that decorates the class with `tandem.runs.names.record_as`, or "
        "do not open this folder if you do not know where it comes from",
    )


def as_recorded(stored: Any, renamed: Mapping[str, str] | None = None) -> Any:
    """Return what a folder holds in the names of today, so that it can be compared.

    Args:
        stored: a description as `describe` makes it.
        renamed: names of keys that changed, where `stored` is a table of arguments.
    """
    if isinstance(stored, list):
        return [as_recorded(member) for member in cast("list[Any]", stored)]
    if not isinstance(stored, dict):
        return stored
    table = cast("dict[str, Any]", stored)
    own = dict(table)
    for key in ("class", "name", "__class__"):
        if isinstance(own.get(key), str):
            own[key] = FORMER.get(own[key], own[key])
    if isinstance(own.get("enum"), str):
        kind, _, member = own["enum"].rpartition(".")
        own["enum"] = f"{FORMER.get(kind, kind)}.{member}"
    kind = str(own.get("class", own.get("__class__")))
    keys = RENAMED.get(kind, {}) | dict(renamed or {})
    today = {keys.get(key, key): as_recorded(value) for key, value in own.items()}
    return ADDED.get(kind, {}) | today


def stage_as_recorded(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's identity, `function`, `arguments` and `seed`, in the names of today."""
    function = stored.get("function")
    name = FORMER.get(str(function), function)
    arguments = as_recorded(stored.get("arguments"), RENAMED.get(str(name)))
    if isinstance(arguments, dict):
        arguments = ADDED.get(str(name), {}) | arguments
    return {"function": name, "arguments": arguments, "seed": stored.get("seed")}


def folder_name(name: str) -> str:
    """Spell a name as a folder, or as a part of a stage's name: letters, digits and dashes.

    >>> folder_name("online DPO")
    'online-dpo'
    """
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
