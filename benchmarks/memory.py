"""The estimate of memory beside the measured peak: models, methods and lengths, a process each.

    python benchmarks/memory.py [--model FOLDER] [--only NAME ...] [--threads 2] [--out FILE.json]

Random Llamas of 1, 15 and 100 M parameters on rows of given lengths; with `--model` also that chat
model (135 M in the committed results). Each process does one fit of a few steps with the memory
settings' defaults. *estimate* is what the loop foresaw before its first step, *peak* the largest
resident memory from there to the fit's end. Writes benchmarks/results/memory-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, make_model

OWN = "own"
"""The model that `--model` names."""


@dataclass(frozen=True)
class Setting:
    """A model, a method, and rows: groups of a prompt and two answers, in tokens."""

    model: str
    method: str
    prompt: int
    answer: int
    rows: int
    lora: bool = False
    precision: str = "auto"
    tokens: int = 16_384


SETTINGS: dict[str, Setting] = {
    "1M-dpo": Setting("W-micro", "dpo", 40, 20, 256),
    "1M-sft-fp32": Setting("W-micro", "sft", 40, 20, 256, precision="fp32"),
    "15M-dpo": Setting("W-pair", "dpo", 200, 60, 32),
    "15M-dpo-lora": Setting("W-pair", "dpo", 200, 60, 32, lora=True),
    "15M-sft-fp32": Setting("W-pair", "sft", 200, 60, 32, precision="fp32"),
    "15M-reward": Setting("W-pair", "reward", 200, 60, 32),
    "15M-sft-2000": Setting("W-pair", "sft", 400, 1600, 6),
    "15M-sft-500": Setting("W-pair", "sft", 100, 400, 24),
    "15M-ppo": Setting("W-pair", "ppo", 200, 60, 32),
    "100M-reward-lora": Setting("W-big", "reward", 200, 60, 16, lora=True, tokens=2048),
    "own-sft-lora": Setting(OWN, "sft", 150, 60, 24, lora=True),
    "own-dpo-lora": Setting(OWN, "dpo", 150, 60, 16, lora=True),
    "own-reward-lora": Setting(OWN, "reward", 150, 60, 16, lora=True),
    "own-sft-2000-lora": Setting(OWN, "sft", 400, 1600, 3, lora=True),
}


def child(name: str, folder: Path) -> None:
    """Do one fit and print what was foreseen and what it took."""
    import numpy as np
    import torch

    from tandem.machine import Lora, Machine
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.context import StageContext
    from tandem.runs.environment import Meter
    from tandem.training import loop, memory

    setting, rng = SETTINGS[name], np.random.default_rng(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    os.environ["TANDEM_CACHE"] = str(folder.parent / "cache")

    data = _draw_groups(setting, rng)
    lora = Lora() if setting.lora else None
    machine = Machine(device="cpu", precision=setting.precision, lora=lora, tokens=setting.tokens)  # type: ignore[arg-type]
    seen: list[tuple[memory.MicrobatchChoice, Meter]] = []

    def foreseen(module: Any, tokens: int, total: int | None, *_: Any, **kw: Any) -> int:
        want = _[1]
        choice = memory.choose_microbatch(module, tokens, total or 1 << 62, want, **kw)
        if choice.each is None:  # also where a rough bound was enough, what is measured is shown
            lms = memory._outermost(module)
            each = memory.bytes_per_token(module, lms, want, kw["sizes"].sample)
            most = kw["sizes"].most(tokens)
            layer = memory.PASSING * each / memory._layers(lms[0])
            need = memory._need(module, each, layer, most, kw["held"], kw["sizes"].trained)
            choice = memory.MicrobatchChoice(tokens, 0, each, need)
        seen.append((choice, Meter().__enter__()))
        return choice.tokens

    loop.fit_to_memory = foreseen  # type: ignore[assignment]
    place = folder.parent
    init = Checkpoint(folder, "init")
    _fit(setting, init, data, lambda what: StageContext.at(place / what, machine=machine))
    choice, meter = seen[-1]
    meter.__exit__()
    print(
        json.dumps(
            {
                "parts": choice.need.parts(),
                "estimate": choice.need.total,
                "peak": meter.peak_bytes,
                "bytes_per_token": choice.each,
                "tokens": choice.tokens,
                "kept": memory.TOLD[choice.kept] or "everything",
                "seconds": meter.seconds,
            }
        )
    )


def _draw_groups(setting: Setting, rng: Any) -> Any:
    """Draw groups of random tokens, of lengths about the setting's."""
    import numpy as np

    from tandem.data.groups import Groups
    from tandem.data.record import Completion, Group, Preference, Prompt

    def ids(n: int) -> Any:
        return rng.integers(4, 500, int(n * rng.uniform(0.9, 1.1))).astype(np.int32)

    def group(k: int) -> Group:
        answers = 1 if setting.method == "sft" else 2
        made = tuple(Completion("x", ids(setting.answer)) for _ in range(answers))
        votes = (Preference(0, 1),) if answers == 2 else ()
        return Group(Prompt(str(k), "x", tokens=ids(setting.prompt)), made, None, votes)

    return Groups.of(group(k) for k in range(setting.rows))


def _fit(setting: Setting, init: Any, data: Any, at: Any) -> None:
    """Fit by the method, in a few steps."""
    from tandem.judges.reward_model import RewardModel
    from tandem.methods import dpo, ppo, reward, sft

    size = max(1, setting.rows // 2)
    if setting.method == "sft":
        sft.fit(init, data, sft.SFTConfig(epochs=1, batch=size), ctx=at("sft"))
    elif setting.method == "dpo":
        dpo.fit(init, data, dpo.DPOConfig(epochs=1, batch=size), ctx=at("dpo"))
    else:
        judge = reward.fit(init, data, reward.RewardConfig(batch=size), ctx=at("reward"))
        if setting.method == "ppo":
            from tandem.engines import Sampling

            cfg = ppo.PPOConfig(prompts=size, rounds=1, inner=1, minibatch=size)
            how = Sampling(max_tokens=setting.answer)
            ppo.fit(init, data.prompts(), RewardModel(judge), cfg, sampling=how, ctx=at("ppo"))


def measure(name: str, model: Path | None, threads: int) -> dict[str, Any]:
    """Run a setting in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as place:
        folder = model
        if SETTINGS[name].model != OWN:
            folder = make_model(Path(place) / "model", WORKLOADS[SETTINGS[name].model].shape)
        assert folder is not None
        link = Path(place) / "init"
        link.symlink_to(folder.absolute())
        words = [sys.executable, __file__, "--child", name, str(link)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return {"name": name, **json.loads(done.stdout.strip().splitlines()[-1])}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a chat model")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = Path(__file__).with_name("results")
    out = args.out or results / f"memory-{date.today().isoformat()}.json"
    found = {
        "date": date.today().isoformat(),
        "machine": {"processor": platform.processor(), "threads": args.threads},
        "rows": json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else [],
    }
    for name in args.only or SETTINGS:
        if SETTINGS[name].model == OWN and args.model is None:
            continue
        row = measure(name, args.model, args.threads)
        print(
            f"{name:18} estimate {row['estimate'] / 2**30:6.2f} GiB"
            f"  peak {row['peak'] / 2**30:6.2f}"
            f"  ratio {row['estimate'] / row['peak']:.2f}  {row['tokens']:,} tokens, {row['kept']}",
            flush=True,
        )
        found["rows"] = [r for r in found["rows"] if r["name"] != name] + [row]
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
