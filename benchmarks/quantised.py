"""DPO with adapters over whole and over 4-bit weights: memory, loss, and what the export computes.

    python benchmarks/quantised.py --model FOLDER --data PAIRS [--steps 4] [--ways lora nf4]

A chat model (SmolLM2-135M-Instruct in the committed results) learns from the first 100 pairs of a
file, those of at most `--longest` tokens, a few steps each way, in a process of its own. Written
for each way: bytes of the opened weights; resident memory before anything is opened and when the
policy is; the largest until the last step, and while the model is saved and checked; the estimate
made before the first step; losses; seconds.

Of the 4-bit way also, on pairs of the same file, how far a token's log-probability moves

    packing     by packing the base: whole against packed, before training
    merging     from the trained policy to its export in fp32
    rounding    from the trained policy to its export in the model's own dtype

Writes benchmarks/results/quantised-DATE.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
READ = 4
"""Pairs on which the policy and its exports are compared."""


class Losses:
    """Keeps each step's numbers."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def log(self, kind: str, **numbers: Any) -> None:
        if kind == "train":
            self.steps.append(numbers)

    def progress(self, done: int, total: int | None, unit: str, **numbers: Any) -> None:
        pass


class Watch:
    """What is measured before the first step of a fit, and while it is saved.

    Args:
        found: where it is written.
        compared: groups on which the policy and its exports are compared.
        tokenizer: of the model.
        place: folder for what is exported.
    """

    def __init__(self, found: dict[str, Any], compared: Any, tokenizer: Any, place: Path) -> None:
        from tandem.methods.dpo import save_checkpoint
        from tandem.runs.environment import Meter

        self.found, self.compared, self.place = found, compared, place
        self.tokenizer, self.own_save, self.meter = tokenizer, save_checkpoint, Meter()
        self.trained: Any = None

    def fit_to_memory(
        self, module: Any, tokens: int, total: int | None, *more: Any, **known: Any
    ) -> int:
        """Choose the micro-batch as the loop does, and note what was foreseen."""
        from tandem.models.quantised import weight_bytes
        from tandem.training import memory
        from tandem.training.free_memory import resident_memory

        choice = memory.choose_microbatch(module, tokens, total or 1 << 62, more[1], **known)
        self.found |= {
            "weights": sum(map(weight_bytes, module.parameters())),
            "estimate": choice.need.parts() | {"total": choice.need.total},
            "opened": resident_memory(), "microbatch": choice.tokens,
        }  # fmt: skip
        return choice.tokens

    def save(self, policy: Any, *more: Any) -> Any:
        """Save as the fit does, and note the peaks of training and of saving."""
        import torch

        from tandem.models.quantised import is_quantised
        from tandem.models.unpacking import write_unpacked
        from tandem.runs.environment import Meter

        self.meter.__exit__()
        self.found |= {
            "train_peak": self.meter.peak_bytes, "train_seconds": self.meter.seconds,
        }  # fmt: skip
        self.trained = _logp(policy, self.compared)
        if is_quantised(policy):
            write_unpacked(policy.lm, self.place / "fp32", torch.float32)
            self.tokenizer.save_pretrained(self.place / "fp32")
        gc.collect()
        with Meter() as saving:
            made = self.own_save(policy, *more)
        self.found |= {"save_peak": saving.peak_bytes, "save_seconds": saving.seconds}
        return made


def child(way: str, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Fit one way; return what is compared."""
    from tandem.data.chat import encode_groups
    from tandem.data.formats import read_data
    from tandem.data.groups import Groups
    from tandem.machine import Lora, Machine
    from tandem.methods import dpo
    from tandem.models.tokenizers import load_tokenizer
    from tandem.rng import Seed
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.context import StageContext
    from tandem.training import loop
    from tandem.training.free_memory import resident_memory
    from tandem.training.optim import Optim

    os.environ["TANDEM_CACHE"] = str(place / "cache")
    tokenizer = load_tokenizer(args.model)
    first = Groups.of(islice(read_data(args.data).groups, 100))
    data = encode_groups(first, tokenizer, max_length=args.longest).groups
    data = Groups.of(islice((g for g in data if g.preferences), args.steps * args.batch))
    found: dict[str, Any] = {"pairs": len(data), "completions": sum(map(len, data))}
    compared = list(islice(data, READ))
    watch = Watch(found, compared, tokenizer, place)
    found["libraries"] = resident_memory()
    loop.fit_to_memory, dpo.save_checkpoint = watch.fit_to_memory, watch.save  # type: ignore[assignment]
    machine = Machine(
        device="cpu", precision=args.precision, tokens=args.tokens, log_every=1,
        lora=Lora(rank=16), quantise="nf4" if way == "nf4" else "none",
    )  # fmt: skip
    heard = Losses()
    ctx = StageContext.at(place / "run", seed=Seed(0), events=heard, machine=machine)
    optim = Optim(lr=args.lr, schedule="constant", warmup=0.0)
    cfg = dpo.DPOConfig(epochs=1, batch=args.batch, optim=optim)
    watch.meter.__enter__()
    made = dpo.fit(Checkpoint(args.model), data, cfg, ctx=ctx)
    found["loss"] = [round(float(s["sigmoid_loss"]), 5) for s in heard.steps]
    if way == "nf4":
        whole, packed = (_read(args.model, machine, compared, packed=p) for p in (False, True))
        found["mean_logp"] = {"whole": float(whole.mean()), "packed": float(packed.mean())}
        found["moves"] = {
            "packing": _gap(whole, packed),
            "training": _gap(packed, watch.trained),
            "merging": _gap(watch.trained, _read(place / "fp32", machine, compared)),
            "rounding": _gap(watch.trained, _read(made.path, machine, compared)),
        }
    return found


def _logp(policy: Any, groups: list[Any]) -> Any:
    """Return a policy's log-probabilities of some groups, in fp32."""
    import torch

    from tandem.batching.packing import pack_groups

    dtype, policy.dtype = policy.dtype, torch.float32
    with torch.no_grad():
        out = policy.eval()(pack_groups(groups, policy.layout).tokens).logp
    policy.dtype = dtype
    return out.values


def _read(model: Path, machine: Any, groups: list[Any], *, packed: bool = False) -> Any:
    from dataclasses import replace

    from tandem.models.opening import open_policy

    alone = replace(machine, lora=None, precision="fp32", layout="rows")
    return _logp(open_policy(model, alone, reference=packed), groups)


def _gap(a: Any, b: Any) -> dict[str, float]:
    """Return nats a token between two models: mean and largest."""
    gap = (a - b).abs()
    return {"mean": float(gap.mean()), "largest": float(gap.max()), "tokens": len(gap)}


def measure(way: str, words: list[str], threads: int) -> dict[str, Any]:
    """Run one way in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, __file__, *words, "--child", way, "--place", place]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a chat model's folder")
    parser.add_argument("--data", type=Path, required=True, help="pairs: chosen and rejected")
    parser.add_argument("--ways", nargs="+", choices=["lora", "nf4"], default=["lora", "nf4"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--longest", type=int, default=256, help="tokens of a pair at most")
    parser.add_argument("--tokens", type=int, default=1024, help="of a micro-batch")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args, args.place)))
        return
    from importlib.metadata import version

    from tandem.machine import Machine
    from tandem.models.devices import resolve_precision
    from tandem.runs.environment import processor_name

    today = date.today().isoformat()
    out = args.out or RESULTS / f"quantised-{today}.json"
    libraries = ("torch", "transformers", "peft", "bitsandbytes")
    result: dict[str, Any] = {
        "date": today,
        "machine": {"processor": processor_name(), "threads": args.threads},
        "versions": {name: version(name) for name in libraries},
        "model": args.model.name,
        "settings": {
            name: getattr(args, name) for name in ("steps", "batch", "longest", "tokens", "lr")
        },
        "precision": str(resolve_precision(Machine(precision=args.precision))),
        "ways": {},
    }
    for way in args.ways:
        row = result["ways"][way] = measure(way, sys.argv[1:], args.threads)
        mib = {n: f"{row[n] / 2**20:,.0f}" for n in ("weights", "train_peak", "save_peak")}
        seconds = f"{row['train_seconds']:.0f} + {row['save_seconds']:.0f} s"
        print(f"{way:5} MiB: {mib}  loss {row['loss']}  {seconds}", flush=True)
        for what, gap in row.get("moves", {}).items():
            print(f"      {what:9} {gap['mean']:.2g} nats a token, {gap['largest']:.2g} at most")
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
