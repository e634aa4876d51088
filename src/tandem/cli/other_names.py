"""Names that users of other trainers type first: what the same thing is called here.

Flags of TRL's and LLaMA-Factory's commands, and commands and methods of TRL's. An error names ours;
nothing is taken for something else in silence.
"""

from __future__ import annotations

from collections.abc import Collection

from tandem.methods import METHODS

FLAGS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("--model",), "model_id": ("--model",), "dataset": ("--data",),
    "dataset_name": ("--data",), "dataset_path": ("--data",), "train_file": ("--data",),
    "eval_dataset": ("--eval_data",), "validation_file": ("--eval_data",),
    "dataset_split": ("--split",), "dataset_train_split": ("--split",), "output_dir": ("--out",),
    "learning_rate": ("--METHOD.optim.lr",), "lr": ("--METHOD.optim.lr",),
    "weight_decay": ("--METHOD.optim.weight_decay",), "warmup_ratio": ("--METHOD.optim.warmup",),
    "lr_scheduler_type": ("--METHOD.optim.schedule",), "max_grad_norm": ("--METHOD.optim.clip",),
    "num_train_epochs": ("--METHOD.epochs", "--METHOD.rounds"),
    "max_steps": ("--METHOD.steps", "--METHOD.rounds", "--METHOD.epochs"),
    "per_device_train_batch_size": ("--METHOD.batch", "--METHOD.prompts"),
    "gradient_accumulation_steps": ("--METHOD.batch", "--METHOD.minibatch"),
    "gradient_checkpointing": ("--machine.checkpointing true",),
    "use_peft": ("--machine.lora.rank 16",), "lora_r": ("--machine.lora.rank",),
    "lora_rank": ("--machine.lora.rank",), "lora_alpha": ("--machine.lora.alpha",),
    "lora_target_modules": ("--machine.lora.targets",), "lora_target": ("--machine.lora.targets",),
    "load_in_4bit": ("--machine.quantise nf4 --machine.lora.rank 16",),
    "quantization_bit": ("--machine.quantise nf4 --machine.lora.rank 16",),
    "bf16": ("--machine.precision bf16",), "dtype": ("--machine.precision",),
    "torch_dtype": ("--machine.precision",), "max_length": ("--data.max_length",),
    "max_seq_length": ("--data.max_length",), "cutoff_len": ("--data.max_length",),
    "max_completion_length": ("--sampling.max_tokens",),
    "max_new_tokens": ("--sampling.max_tokens",), "temperature": ("--sampling.temperature",),
    "top_p": ("--sampling.top_p",), "top_k": ("--sampling.top_k",),
    "num_generations": ("--METHOD.n", "--METHOD.k"), "beta": ("--METHOD.beta",),
    "pref_beta": ("--METHOD.beta",), "loss_type": ("--METHOD.loss", "--METHOD.per"),
    "pref_loss": ("--METHOD.loss",), "use_vllm": ("--machine.engine vllm",),
    "vllm_mode": ("--machine.engine vllm",), "report_to": ("--tracker",),
    "logging_steps": ("--machine.log_every",), "save_steps": ("--machine.save_seconds",),
    "eval_strategy": ("--evaluate",),
}  # fmt: skip
"""A flag of another trainer, without dashes -> ours, the likeliest first; METHOD is what runs."""

UNITS: dict[str, str] = {
    "epochs": "passes over the data",
    "rounds": "a round samples afresh; see the method's `prompts`",
    "batch": "prompts of one optimiser step, over all processes and micro-batches",
    "prompts": "prompts of a round, over all processes",
    "minibatch": "of one optimiser step, over all processes and micro-batches",
    "save_seconds": "seconds",
}
"""What ours counts where the other trainer's flag counts something else."""

ELSEWHERE: dict[str, str] = {
    "resume_from_checkpoint": "leave it out: the same command goes on where it stopped",
    "do_train": "leave it out: `tandem run` trains",
    "packing": "leave it out: every method packs, and no answer sees another",
    "trust_remote_code": "leave it out: code that comes with a model is never run",
    "push_to_hub": "leave it out; afterwards `tandem export RUN --out FOLDER`, and `hf upload NAME "
    "FOLDER`",
    "reward_funcs": "write --reward truth where the data has an answer key, or --reward URL; in "
    "Python a reward is a judge: examples/grpo_with_your_reward.py",
    "reward_model_path": "write --reward FOLDER",
}
"""A flag of another trainer that is no flag here -> what does it."""

COMMANDS: dict[str, str] = {
    "train": "tandem run METHOD", "trl": "tandem run METHOD", "llamafactory-cli":
    "tandem run METHOD", "env": "tandem doctor", "push": "tandem export RUN --out FOLDER",
    "merge": "tandem export RUN --out FOLDER", "generate": "tandem sample MODEL --prompt TEXT",
    "vllm-serve": "tandem run METHOD --machine.engine vllm", "eval": "tandem eval policy",
}  # fmt: skip
"""A command of another program -> ours."""

NEAREST_METHODS: dict[str, str] = {
    "rloo": "grpo --grpo.advantage rest --grpo.kl reward --grpo.ratio none --grpo.per constant "
    "--grpo.beta 0.05",
    "dapo": "grpo --grpo.clip [0.2,0.28] --grpo.per token --grpo.beta 0 --grpo.informative true "
    "--grpo.overlong 0.2",
    "gspo": "grpo --grpo.ratio sequence --grpo.clip [3e-4,4e-4] --grpo.beta 0",
    "dr_grpo": "grpo --grpo.advantage mean --grpo.per constant --grpo.beta 0",
    "dr-grpo": "grpo --grpo.advantage mean --grpo.per constant --grpo.beta 0",
    "ipo": "dpo --dpo.loss ipo", "simpo": "dpo --dpo.loss simpo", "rm": "reward",
    "reward_model": "reward", "reward_modeling": "reward", "pt": "sft", "online-dpo": "online_dpo",
    "nash": "nash_md",
}  # fmt: skip
"""A method of another trainer -> what to write behind `tandem run`."""


def explain_flag(name: str, known: Collection[str], method: str = "") -> str:
    """Return what to write in place of another trainer's flag; nothing where it is none.

    Args:
        name: the flag, with or without dashes.
        known: the flags of the command, without dashes.
        method: that is run.

    Example:
        >>> explain_flag("learning_rate", {"dpo.optim.lr"}, "dpo")
        'write --dpo.optim.lr'
    """
    plain = name.removeprefix("--").replace("-", "_")
    if plain in ELSEWHERE:
        return ELSEWHERE[plain]
    for flag in FLAGS.get(plain, ()):
        ours = flag.replace("METHOD", method)
        first = ours.removeprefix("--").partition(" ")[0]
        if any(first == option or first.startswith(f"{option}.") for option in known):
            unit = UNITS.get(first.rpartition(".")[2])
            return f"write {ours}" + (f" ({unit})" if unit else "")
    if "--model" in FLAGS.get(plain, ()):
        return "give the model without a flag, as the first word behind the command"
    return ""


def explain_command(words: list[str]) -> str:
    """Return what a command of another program is called here; nothing where it is none.

    Example:
        >>> explain_command(["trl", "dpo", "--model", "m"])
        'tandem run dpo'
    """
    program = words[0] in ("trl", "train", "llamafactory-cli") and len(words) > 1
    name = words[1] if program else words[0]
    if name in METHODS or name in NEAREST_METHODS:
        return f"tandem run {NEAREST_METHODS.get(name, name)}"
    return COMMANDS.get(name, "") or COMMANDS.get(words[0], "")
