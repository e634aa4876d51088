"""Tandem beside TRL 1.16 on the same machine, weights, batches and steps.

    python benchmarks/vs_trl.py [--quick] [--what dpo sft reward kto] [--threads 2] [--repeat 3]

Workload W-pair: a random Llama of 15.2 M parameters (6 layers, width 288, FFN 768, 6 heads,
vocabulary 32,000 tied); prompts of 150-350 and answers of 20-60 tokens, uniform; 8 records a
step, AdamW, gradient checkpointing off on both sides. Both sides read the same rows in the same
order, so their losses must agree step by step; a fast wrong answer fails the benchmark.

Each measurement is a process of its own; sides alternate, medians count, and TRL is taken at the
better of fp32 and bf16. For DPO "live" adds the reference's forward pass to every step, as TRL
does; "cached" is every later epoch, run or loss on the same data. Results go to
benchmarks/results/vs_trl-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY = 32_000
RECORDS, SIZE = 64, 8
TOLERANCE = 0.02
"""Relative difference of mean losses between the sides: bf16 rounding, not another function."""


def make_model(folder: Path) -> None:
    """Write the random Llama and a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(4, VOCABULARY)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", **special).save_pretrained(
        folder
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_rows() -> list[dict[str, str]]:
    """Draw the records of W-pair."""
    rng = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{rng.randint(4, VOCABULARY - 1)}" for _ in range(rng.randint(low, high)))

    return [
        {"prompt": words(150, 350) + " ", "chosen": words(20, 60), "rejected": words(20, 60)}
        for _ in range(RECORDS)
    ]


def tandem_side(what: str, folder: Path, precision: str) -> dict[str, Any]:
    """Train one epoch with Tandem; return step times, losses and reference time."""
    import torch

    from tandem import chat, models
    from tandem.formats import read
    from tandem.groups import Groups
    from tandem.kernel import open_policy, open_scalar
    from tandem.loop import Optim, fit
    from tandem.machine import Machine
    from tandem.methods.kto import Mismatched, log_ratio
    from tandem.objectives.nll import nll
    from tandem.objectives.pairwise import PAIRWISE
    from tandem.objectives.reward import bradley_terry
    from tandem.objectives.unpaired import kto, kto_z0
    from tandem.offline import Offline
    from tandem.operators import mismatch, unpair
    from tandem.reading import log_probs
    from tandem.rng import Seed

    machine = Machine(precision=precision, device="cpu", log_every=1)  # type: ignore[arg-type]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in make_rows()), encoding="utf-8")
    data = chat.encode(read(file).groups, models.load_tokenizer(folder), max_length=512).groups
    if what == "sft":
        data = Groups.of(g.keep([0]) for g in data)
    if what == "kto":
        data = Groups.of(mismatch()(unpair()(data, Seed()), Seed()))
    if what == "reward":
        policy = open_scalar(folder, machine, fresh=Seed(0), train=True)
        torch.nn.init.zeros_(policy.inner.score.weight)
    else:
        policy = open_policy(folder, machine, train=True)
    began = time.perf_counter()
    if what in ("dpo", "kto"):
        frozen = open_policy(folder, machine)
        began = time.perf_counter()
        data = Groups.of(log_probs(frozen, data, machine.tokens))
    reference = (time.perf_counter() - began) / -(-len(data) // SIZE)

    def loss(out: Any, batch: Any) -> dict[str, Any]:
        if what == "sft":
            return {what: nll(out.logp)}
        if what == "reward":
            return {what: bradley_terry(out.score, batch.pairs)}
        if what == "dpo":
            return {what: PAIRWISE["sigmoid"](out.logp, batch.ref, batch.pairs)}
        h, own = log_ratio(out, batch), batch.weight > 0
        return {what: kto(h[own], batch.scores[own], kto_z0(h[~own]), beta=0.1)}

    class InOrder(Mismatched if what == "kto" else Offline):  # type: ignore[misc]
        ticks: list[float] = []  # noqa: RUF012

        def _indices(self, step: int) -> list[int]:
            return list(range(step * SIZE, min((step + 1) * SIZE, len(self.groups))))

        def steps(self, policy: Any) -> Any:
            for step in super().steps(policy):
                self.ticks.append(time.perf_counter())
                yield step
            self.ticks.append(time.perf_counter())

    class Losses:
        values: list[float] = []  # noqa: RUF012

        def log(self, kind: str, **numbers: Any) -> None:
            if kind == "train":
                self.values.append(float(numbers[f"{what}_loss"]))

        def progress(self, *args: Any, **kw: Any) -> None:
            pass

    source = InOrder(
        data,
        size=SIZE,
        epochs=1,
        seed=Seed(0),
        layout=policy.layout,
        tokens=machine.tokens,
        logp_is="ref" if what in ("dpo", "kto") else None,
    )
    optim = Optim(lr=1e-5, schedule="linear", warmup=0.0)
    fit(policy, source, loss, optim, machine=machine, events=Losses())
    return {"ticks": source.ticks, "losses": Losses.values, "reference": reference}


def trl_side(what: str, folder: Path, precision: str) -> dict[str, Any]:
    """Train the same steps with TRL; return step times and losses."""
    import torch
    import transformers
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers import AutoTokenizer as Words

    transformers.logging.set_verbosity_error()
    tokenizer = Words.from_pretrained(folder)
    rows = make_rows()
    unpaired = [
        {"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
        for r in rows
        for side in ("chosen", "rejected")
    ]
    steps = (2 if what == "kto" else 1) * RECORDS // SIZE
    common: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": SIZE,
        "max_steps": steps,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": precision == "bf16",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "learning_rate": 1e-5,
        "max_length": 512,
    }

    class Clock(transformers.TrainerCallback):
        ticks: list[float] = []  # noqa: RUF012

        def on_step_begin(self, *args: Any, **kw: Any) -> None:
            self.ticks.append(time.perf_counter())

        def on_train_end(self, *args: Any, **kw: Any) -> None:
            self.ticks.append(time.perf_counter())

    def inner(trainer: type) -> type:
        class InOrder(trainer):  # type: ignore[misc,valid-type]
            def _get_train_sampler(self, dataset: Any = None) -> Any:
                return SequentialSampler(dataset or self.train_dataset)

        return InOrder

    import trl

    clock = Clock()
    kw: dict[str, Any] = {"processing_class": tokenizer, "callbacks": [clock]}
    if what == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        torch.nn.init.zeros_(model.score.weight)
        trainer = inner(trl.RewardTrainer)(
            model, args=trl.RewardConfig(**common), train_dataset=Dataset.from_list(rows), **kw
        )
    else:
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if what == "sft":
            plain = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
            data = Dataset.from_list(plain)
            trainer = inner(trl.SFTTrainer)(
                lm, args=trl.SFTConfig(**common), train_dataset=data, **kw
            )
        elif what == "dpo":
            data = Dataset.from_list(rows)
            trainer = inner(trl.DPOTrainer)(
                lm, None, args=trl.DPOConfig(**common), train_dataset=data, **kw
            )
        else:
            data = Dataset.from_list(unpaired)
            trainer = inner(trl.KTOTrainer)(
                lm, None, args=trl.KTOConfig(**common), train_dataset=data, **kw
            )
    trainer.train()
    losses = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    return {"ticks": clock.ticks, "losses": losses, "reference": 0.0}


def child(side: str, what: str, precision: str, folder: Path, threads: int) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    words = [sys.executable, __file__, "--child", side, what, precision, str(folder), str(threads)]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env = {**os.environ, **quiet, "TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} {what} {precision} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(words: list[str]) -> None:
    """Be the child: measure, and print one line of JSON."""
    import resource
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    side, what, precision, folder, threads = words
    torch.set_num_threads(int(threads))
    found = (tandem_side if side == "tandem" else trl_side)(what, Path(folder), precision)
    ticks = found.pop("ticks")
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    found["step"] = statistics.median(steps[1:])
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps(found))


def compare(what: str, folder: Path, repeat: int, threads: int) -> dict[str, Any]:
    """Alternate the sides and return medians, ratios and the check of the losses."""
    runs: dict[str, list[dict[str, Any]]] = {"tandem": [], "trl-bf16": [], "trl-fp32": []}
    for _ in range(repeat):
        runs["tandem"].append(child("tandem", what, "bf16", folder, threads))
        runs["trl-bf16"].append(child("trl", what, "bf16", folder, threads))
        runs["trl-fp32"].append(child("trl", what, "fp32", folder, threads))
    step = {name: statistics.median(r["step"] for r in rs) for name, rs in runs.items()}
    memory = {name: statistics.median(r["peak_gb"] for r in rs) for name, rs in runs.items()}
    reference = statistics.median(r["reference"] for r in runs["tandem"])
    best = min(("trl-bf16", "trl-fp32"), key=lambda name: step[name])
    live = step["tandem"] + reference
    mine, theirs = (statistics.mean(runs[n][0]["losses"]) for n in ("tandem", best))
    gap = abs(mine - theirs) / max(abs(theirs), 1e-9)
    row = {
        "what": what,
        "seconds_per_step": step,
        "reference_seconds_per_step": reference,
        "peak_gb": memory,
        "trl_taken_at": best,
        "speed_live": step[best] / live,
        "speed_cached": step[best] / step["tandem"],
        "memory_share": memory["tandem"] / memory[best],
        "mean_loss": {"tandem": mine, "trl": theirs, "relative_gap": gap},
        "losses_agree": gap < TOLERANCE,
    }
    print(
        f"{what:8} tandem {step['tandem']:.2f} s/step (+ reference {reference:.2f}), "
        f"TRL {best[4:]} {step[best]:.2f} s/step: {row['speed_live']:.1f}x live, "
        f"{row['speed_cached']:.1f}x cached; memory {row['memory_share']:.2f} of TRL's; "
        f"loss {mine:.4f} against {theirs:.4f}",
        flush=True,
    )
    return row


def page(file: Path) -> str:
    """Spell a result file as the table of docs/performance.md."""
    found = json.loads(file.read_text(encoding="utf-8"))
    names = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        "# Performance",
        "",
        "Generated by `python benchmarks/vs_trl.py --page` from",
        f"[benchmarks/results/{file.name}](../benchmarks/results/{file.name}).",
        "",
        f"Workload {found['workload']} (see the head of `benchmarks/vs_trl.py`),",
        f"{found['machine']['threads']} CPU threads, {names}.",
        "TRL is taken at the better of fp32 and bf16; both sides train the same rows in the same",
        "order, and their mean losses agree.",
        "",
        "| method | Tandem s/step | its reference s/step | TRL s/step | live | cached | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        step, best = row["seconds_per_step"], row["trl_taken_at"]
        lines.append(
            f"| {row['what']} | {step['tandem']:.2f} | {row['reference_seconds_per_step']:.2f} "
            f"| {step[best]:.2f} ({best[4:]}) | {row['speed_live']:.1f}x "
            f"| {row['speed_cached']:.1f}x | {row['memory_share']:.2f} of TRL's |"
        )
    lines += [
        "",
        "*live* counts the reference's forward pass in every step, as TRL does; *cached* is every",
        "later epoch, loss or run on the same data, where the column is read from disk. Not",
        "measured: GPUs, models above 15 M parameters, LoRA.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the comparison."""
    if "--page" in sys.argv:
        newest = max((Path(__file__).parent / "results").glob("vs_trl-*.json"))
        print(page(newest), end="")
        return
    if "--child" in sys.argv:
        measure(sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="DPO alone, once")
    parser.add_argument("--what", nargs="+", default=["dpo", "sft", "reward", "kto"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    what = ["dpo"] if options.quick else options.what
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder)
        rows = [
            compare(w, folder, 1 if options.quick else options.repeat, options.threads)
            for w in what
        ]
    import torch
    import transformers
    import trl

    found = {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": platform.processor(), "threads": options.threads},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__}
        | {"trl": trl.__version__, "python": platform.python_version()},
        "workload": "W-pair",
        "load": os.getloadavg(),
        "rows": rows,
    }
    out = Path(__file__).parent / "results" / f"vs_trl-{found['date']}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)
    if not all(row["losses_agree"] for row in rows):
        sys.exit("the losses of the two sides differ: one of them computes something else")


if __name__ == "__main__":
    main()
