"""The methods. This file is the table of contents: one row a method, in the five verbs.

A method is one file, `tandem/methods/<name>.py`, with

    the config   a frozen dataclass; every field has a default and says where it comes from
    fit          where the method fits something: a stage that returns a Checkpoint
    recipe       composes stages: `recipe(run, <inputs>, cfg) -> Checkpoint` (or a way of decoding
                 one: `stages.sampling.BestOf`)

A recipe names its inputs, and is given what it names (see `INPUTS`). The rows are here and not
in those files because the table and `tandem --help` must not wait for torch. A method's file is
imported when it is asked for: `tandem.methods.dpo`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

from tandem.errors import ConfigError, nearest_name


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A method in the five verbs.

    Attributes:
        config: name of the config dataclass in the method's file.
        title: the method as its papers call it, with its variants.
        sample: what is sampled from, and how many completions a prompt.
        judge: who judges.
        select: the operator between judging and fitting.
        objective: what is minimised.
        init: where training starts.
        repeats: how often the whole is done.
        fits: what its result is: a policy that is compared by judges, a reward, a solver of
            questions with one checkable answer, or rounds that measure themselves; not a column.
        asks: what a solver is examined for: a path to the answer, or the answer alone.
    """

    config: str
    title: str
    sample: str
    judge: str
    select: str
    objective: str
    init: str
    repeats: str
    fits: Literal["policy", "reward", "preference", "solver", "rounds"] = "policy"
    asks: Literal["path", "answer"] = "path"


METHODS: dict[str, MethodRow] = {
    "sft": MethodRow("SFTConfig", "SFT", "demonstrations, 1", "-", "-", "`nll`", "base", "1"),
    "reward": MethodRow(
        "RewardConfig", "reward model", "D, 2..K", "humans", "-", "`bradley_terry`", "SFT", "1",
        fits="reward",
    ),
    "preference": MethodRow(
        "PreferenceConfig", "preference model", "D, 2", "humans", "-", "`two_argument`", "SFT", "1",
        fits="preference",
    ),
    "cyclic_preference": MethodRow(
        "CyclicPreferenceConfig", "scalar plus cyclic preference model", "D, 2", "humans", "-",
        "`cyclic_log_odds`", "SFT", "1",
        fits="preference",
    ),
    "dpo": MethodRow(
        "DPOConfig", "DPO, IPO, cDPO, rDPO, hinge, hinge-norm, SimPO...", "D, 2", "humans", "-",
        "one per loss", "SFT", "1",
    ),
    "kto": MethodRow("KTOConfig", "KTO", "D, 1", "humans", "`mismatch`", "`kto`", "SFT", "1"),
    "ppo": MethodRow(
        "PPOConfig", "PPO", "pi_theta, 1", "r_phi minus KL", "-", "`ppo_clip` + value", "SFT",
        "online",
    ),
    "grpo": MethodRow(
        "GRPOConfig", "GRPO, RLOO, Dr. GRPO, DAPO, GSPO", "pi_theta, k", "r_phi", "-",
        "`ppo_clip`, group baseline", "SFT", "online",
    ),
    "online_dpo": MethodRow(
        "OnlineDPOConfig", "online DPO, online IPO, online SLiC", "pi_theta, K", "any", "-",
        "`sigmoid`, `ipo_sum`, `hinge_norm`", "SFT", "online",
    ),
    "xpo": MethodRow(
        "XPOConfig", "XPO", "pi_theta, 1; pi_ref, 1", "any", "-",
        "`sigmoid` + alpha log pi(y_ref)", "SFT", "online",
    ),
    "iterative_dpo": MethodRow(
        "IterativeDPOConfig", "iterative DPO", "pi_theta, K", "r_phi",
        "`rank_pairs(best-worst)`", "`sigmoid`", "pi_theta", "T",
    ),
    "nash_md": MethodRow(
        "NashMDConfig", "Nash-MD-PG", "pi_theta, k; its mixture with pi_sft", "rho", "-",
        "`ppo_clip`, wins minus KL", "SFT", "online",
    ),
    "nash_ema": MethodRow(
        "NashEMAConfig", "Nash-EMA-PG", "pi_theta, k; its average", "rho", "-",
        "`ppo_clip`, wins minus KL", "SFT", "online",
    ),
    "self_play": MethodRow(
        "SelfPlayConfig", "self-play", "pi_theta, k", "rho", "-", "`ppo_clip`, wins minus KL",
        "SFT", "online",
    ),
    "best_response": MethodRow(
        "BestResponseConfig", "best response", "pi_theta, k; a frozen policy", "rho", "-",
        "`ppo_clip`, wins minus KL", "SFT", "online",
    ),
    "past_play": MethodRow(
        "PastPlayConfig", "play against past policies", "pi_theta, k; its past", "rho", "-",
        "`ppo_clip`, wins minus KL", "SFT", "online",
    ),
    "ipo_md": MethodRow(
        "IPOMDConfig", "IPO-MD", "mixture of pi_theta and pi_sft, k", "rho", "-", "`ipo_sum`",
        "SFT", "online",
    ),
    "sppo": MethodRow(
        "SPPOConfig", "SPPO", "pi_theta, k", "rho", "-", "`sppo_regression`", "pi_theta", "T",
    ),
    "best_of_n": MethodRow(
        "BestOfNConfig", "best-of-n", "pi_sft, n", "r_phi", "`best`", "(decoding)", "-", "-"
    ),
    "rso": MethodRow(
        "RSOConfig", "RSO, sft-sample-rank", "pi_sft, 64 or 8", "r_psi, rho_psi",
        "`rejection`, `rank_pairs`", "`sigmoid`, `hinge`, `hinge_norm`", "SFT", "1",
    ),
    "raft": MethodRow(
        "RAFTConfig", "RAFT", "pi_theta, k", "r_phi", "`best`, `top_share`", "`nll`", "pi_theta",
        "T",
    ),
    "rest": MethodRow(
        "ReSTConfig", "ReST", "pi_theta, k", "r_phi", "`above(tau_i)`", "`nll`, `weighted`, `gold`",
        "pi_theta", "G x I",
    ),
    "lmsi": MethodRow(
        "LMSIConfig", "LMSI", "base, m", "agreement", "`majority`", "`nll`", "base", "1",
        fits="solver",
    ),
    "star": MethodRow(
        "STaRConfig", "STaR", "pi, 1 (+ hint)", "answer key", "`correct`", "`nll`", "base", "N",
        fits="solver",
    ),
    "direct": MethodRow(
        "DirectConfig", "fine-tuning on answers alone", "answer key, 1", "-", "-", "`nll`", "base",
        "1",
        fits="solver", asks="answer",
    ),
    "rlaif": MethodRow(
        "RLAIFConfig", "RLAIF, d-RLAIF", "pi_sft, 2", "language model", "-", "any above", "SFT", "1"
    ),
    "cai": MethodRow(
        "CAIConfig", "constitutional AI", "pi_sft, critiqued and revised K times", "principles",
        "-",
        "`nll`, then RLAIF", "base", "1",
    ),
    "rlp": MethodRow(
        "RLPConfig", "RLP-SPG, RLP-UML", "pi_theta, 10", "r_phi, agreement >= gamma",
        "`synthetic_pairs`, two views", "`bradley_terry` on D + D_hat, lambda `multiview`",
        "SFT, then PPO", "1",
    ),
    "iterated_rlhf": MethodRow(
        "IteratedRLHFConfig", "iterated RLHF", "pi_sft, pi_1, ..., pi_t, 2", "humans", "-",
        "`bradley_terry` on all tranches, then PPO", "SFT", "T",
        fits="rounds",
    ),
}  # fmt: skip

__all__ = [
    "INPUTS",
    "METHODS",
    "Method",
    "MethodRow",
    "REWARDED",
    "ROLLOUTS_AHEAD",
    "find_method",
    "load_method",
    "methods_markdown",
    "methods_table",
]

COLUMNS = ("title", "sample", "judge", "select", "objective", "init", "repeats")
HEADINGS = ("method", "sample from, n", "judge", "select", "objective", "init", "repeats")

ROLLOUTS_AHEAD = (
    "ppo", "grpo", "nash_md", "nash_ema", "self_play", "best_response", "past_play", "rlp", "rlaif",
    "cai", "iterated_rlhf",
)  # fmt: skip
"""Methods with a policy gradient: their samples may be of an older policy, and are weighed."""

REWARDED = (
    "ppo", "grpo", "online_dpo", "xpo", "iterative_dpo", "best_of_n", "rso", "raft", "rest",
)  # fmt: skip
"""Methods that learn from a reward, which may be one of the user's own."""

INPUTS: dict[str, str] = {
    "base": "Checkpoint: the model before any training",
    "demonstrations": "Groups, one completion a prompt",
    "pi_sft": "Checkpoint: `base` after SFT on the demonstrations",
    "D": "Groups with preferences, for training",
    "given_pairs": "Groups with preferences that came with the data, or None",
    "r_phi": "Checkpoint: a reward model fitted to D; or the Judge that --reward names",
    "held_out": "Groups with preferences, of prompts that are not in D",
    "prompts": "Prompts without labels, tokenised, to sample from",
    "formats": "FeedbackFormats: how a language model is asked to compare, rate and revise",
    "sampling": "Sampling: temperature, truncation, longest answer",
    "validation": "Validation: held-out prompts and judges that follow a policy while it trains",
    "same": "Mapping by name: what makes two completions the same, the task's own choice first",
    "humans": "Judge: who gives preferences, now or tomorrow",
    "wording": "QuestionFormat: how questions with one checkable answer are put and read",
    "preference_judge": "Callable: who says which of two answers is better, by name; fitted to D "
    "where it is a model",
    "truth": "Judge: the programmatic truth, where there is one",
}


def __getattr__(name: str) -> Any:
    """Import a method's file when it is asked for: `methods.dpo`."""
    if name not in METHODS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


@dataclass(frozen=True, slots=True)
class Method:
    """A method whose file is imported: its row of the table, its config and its recipe.

    Attributes:
        name: as on the command line.
        row: its row of the table.
        config: its settings, a dataclass.
        recipe: `recipe(run, <inputs>, cfg)`, which does the method as stages of a run.
    """

    name: str
    row: MethodRow
    config: type[Any]
    recipe: Callable[..., Any]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the recipe starts from: `pi_sft`, `D`, `r_phi`, ..."""
        return tuple(p for p in signature(self.recipe).parameters if p not in ("run", "cfg"))

    def read_inputs(self, cfg: Any) -> frozenset[str]:
        """Return those that it reads with these settings; the others need not be made.

        A config whose settings leave some unread names them in its property `unread`.
        """
        return frozenset(self.inputs) - getattr(cfg, "unread", frozenset[str]())


def find_method(name: str) -> MethodRow:
    """Return a method's row.

    Raises:
        ConfigError: there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(
            f"there is no method {name!r}.{nearest_name(name, METHODS)}",
            "a method is a file in tandem/methods with a row in its table",
            f"name one of: {', '.join(METHODS)}",
        )
    return METHODS[name]


def load_method(name: str) -> Method:
    """Open a method's file; this imports torch.

    Raises:
        ConfigError: there is no such method.
    """
    row = find_method(name)
    module = importlib.import_module(f"{__name__}.{name}")
    return Method(name, row, getattr(module, row.config), module.recipe)


def methods_table() -> list[tuple[str, ...]]:
    """Return the table's cells, without its heading."""
    return [tuple(str(getattr(row, column)) for column in COLUMNS) for row in METHODS.values()]


def methods_markdown() -> str:
    """Return the table as Markdown: for the README and the docs."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *methods_table()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
