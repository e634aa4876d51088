"""TRL's side of the comparison: its trainers as they are, on the same rows in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from datasets import Dataset
from meters import Meter
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from workloads import Workload, share_even

ONLINE_STEPS = 4


class Clock(transformers.TrainerCallback):
    """Marks the start of each step, and the end of the last."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step_begin(self, *args: Any, **kw: Any) -> None:
        self.meter.tick()

    def on_train_end(self, *args: Any, **kw: Any) -> None:
        self.meter.tick()


def run(what: str, work: Workload, folder: Path, precision: str) -> dict[str, Any]:
    """Train the same steps.

    Args:
        precision: `fp32` or `bf16`, with at most one option behind a plus: `bf16+precomputed`
            (the reference of DPO), `bf16+checkpointed` (TRL's default), `bf16+paged` (GRPO).
    """
    precision, _, option = precision.partition("+")
    transformers.logging.set_verbosity_error()
    meter = Meter(work.passes)
    common: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": work.size,
        "max_steps": (2 if what == "kto" else 1) * work.steps,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": precision == "bf16",
        "disable_tqdm": True,
        "gradient_checkpointing": option == "checkpointed",
        "learning_rate": 1e-5,
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shared: dict[str, Any] = {"processing_class": tokenizer, "callbacks": [Clock(meter)]}
    if work.lora:
        shared["peft_config"] = adapters(work.lora, what)
    if what == "grpo":
        return online(work, folder, common, shared, option, meter)
    common["max_length"] = work.max_length
    trainer = OFFLINE[what](work.rows(), folder, common, shared, option)
    trainer.train()
    found = {name: logged(trainer, name) for name in ("loss", "grad_norm")}
    return {"losses": found["loss"], "grad_norm": found["grad_norm"], "reference": 0.0} | (
        meter.report()
    )


def adapters(rank: int, what: str) -> peft.LoraConfig:
    """Adapters of a rank on all linear layers; the head of a reward is trained in full."""
    head = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if what == "reward" else {}
    return peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", **head)


def logged(trainer: Any, name: str) -> list[float]:
    return [float(h[name]) for h in trainer.state.log_history if name in h]


def in_order(trainer: type) -> type:
    class InOrder(trainer):  # type: ignore[misc,valid-type]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset or self.train_dataset)

    return InOrder


def policy(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def sft(rows: list, folder: Path, common: dict, shared: dict, option: str) -> Any:
    plain = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
    args = trl.SFTConfig(**common)
    return in_order(trl.SFTTrainer)(
        policy(folder), args=args, train_dataset=Dataset.from_list(plain), **shared
    )


def reward(rows: list, folder: Path, common: dict, shared: dict, option: str) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    torch.nn.init.zeros_(model.score.weight)
    args = trl.RewardConfig(**common)
    return in_order(trl.RewardTrainer)(
        model, args=args, train_dataset=Dataset.from_list(rows), **shared
    )


def dpo(rows: list, folder: Path, common: dict, shared: dict, option: str) -> Any:
    args = trl.DPOConfig(precompute_ref_log_probs=option == "precomputed", **common)
    return in_order(trl.DPOTrainer)(
        policy(folder), None, args=args, train_dataset=Dataset.from_list(rows), **shared
    )


def kto(rows: list, folder: Path, common: dict, shared: dict, option: str) -> Any:
    unpaired = [
        {"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
        for r in rows
        for side in ("chosen", "rejected")
    ]
    args = trl.KTOConfig(**common)
    return in_order(trl.KTOTrainer)(
        policy(folder), None, args=args, train_dataset=Dataset.from_list(unpaired), **shared
    )


OFFLINE = {"sft": sft, "reward": reward, "dpo": dpo, "kto": kto}


def online(
    work: Workload, folder: Path, common: dict, shared: dict, option: str, meter: Meter
) -> dict[str, Any]:
    """GRPO: 4 prompts x 8 completions of 48 tokens a step, transformers backend."""

    class Timed(trl.GRPOTrainer):
        def _generate(self, *args: Any, **kw: Any) -> Any:
            return meter.timed("sampling", super()._generate)(*args, **kw)

    args = trl.GRPOConfig(
        **common
        | {
            "max_steps": ONLINE_STEPS,
            "per_device_train_batch_size": 32,
            "num_generations": 8,
            "max_completion_length": 48,
            "beta": 0.05,
            "loss_type": "grpo",
            "lr_scheduler_type": "constant",
            "generation_kwargs": {"min_new_tokens": 48},
            "use_transformers_continuous_batching": option == "paged",
        }
    )
    prompts = Dataset.from_list([{"prompt": r["prompt"]} for r in work.rows()])
    trainer = Timed(
        policy(folder),
        args=args,
        reward_funcs=lambda completions, **_: share_even(completions),
        train_dataset=prompts,
        **shared,
    )
    trainer.train()
    return {
        "rewards": logged(trainer, "reward"),
        "spread": logged(trainer, "reward_std"),
        "kl": logged(trainer, "kl"),
        "losses": logged(trainer, "loss"),
        "grad_norm": logged(trainer, "grad_norm"),
        "reference": 0.0,
    } | meter.report()
