"""A chat model and preferences of one's own: Tandem beside TRL 1.16, full weights and adapters.

    python benchmarks/own_model.py MODEL DATA [--what dpo sft reward] [--lora 0 16] [--pairs 20]
                                   [--size 4] [--threads 2] [--repeat 1] [--out FILE.json]

`DATA` is a file of preferences in any format that `tandem run --data` takes; its first rows that
fit 1,024 tokens are read as conversations, twice, and only the second time is timed. Both sides
read the same rows in the same order through the model's own chat template, so losses must agree.
Tandem runs as it does by default (`auto` precision). TRL is measured in fp32 and bf16, without and
with gradient checkpointing, which is its default, and DPO also with the reference precomputed; its
fastest way counts for the speed, and the memory of its defaults stands beside. Per *processed*
token is what the arithmetic costs, per *pair* what a user waits for.
Writes benchmarks/results/own-model-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vs_trl import agreement, environment, others, result_file, speeds
from workloads import Shape, Workload

LONGEST = 1024
METHODS = ("dpo", "sft", "reward")


def main() -> None:
    """Measure all that was asked for."""
    if sys.argv[1:2] == ["--child"]:
        measure(*sys.argv[2:])
        return
    args = arguments()
    found = environment(args.threads) | {"model": Path(args.model).name, "rows": []}
    out = args.out or result_file("own-model", quick=False)
    with tempfile.TemporaryDirectory() as place:
        folder = linked(Path(args.model), Path(place) / "model")
        given = write_rows(args.data, folder, args.pairs, Path(place) / "given.jsonl")
        for what in args.what:
            for rank in args.lora:
                work = Workload(
                    "own", Shape(), args.pairs, args.size, LONGEST, passes=2,
                    given=str(given), lora=rank,
                )  # fmt: skip
                found["rows"].append(compare(what, work, folder, args))
                out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--what", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="0: all weights")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--size", type=int, default=4, help="pairs a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"], help="of TRL")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def linked(model: Path, place: Path) -> Path:
    """Return a folder with the model's files, in which both sides may write."""
    place.mkdir()
    for file in model.iterdir():
        (place / file.name).symlink_to(file.resolve())
    return place


def write_rows(data: Path, folder: Path, pairs: int, file: Path) -> Path:
    """Write the first pairs that fit, as conversations, which both sides read."""
    from tandem.data import chat
    from tandem.data.formats import read_data
    from tandem.data.groups import Groups
    from tandem.models.tokenizers import load_tokenizer

    tokenizer, rows = load_tokenizer(folder), []
    for group in read_data(data).groups:
        if len(group.completions) != 2 or not group.prompt.messages:
            continue
        kept = chat.encode_groups(Groups.of([group]), tokenizer, max_length=LONGEST).groups
        if len(kept) == 1 and len(kept[0].completions) == 2:
            said = [[{"role": "assistant", "content": c.text}] for c in group.completions]
            prompt = [dict(m) for m in group.prompt.messages]
            rows.append({"prompt": prompt, "chosen": said[0], "rejected": said[1]})
        if len(rows) == pairs:
            break
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def ways(what: str, precisions: list[str]) -> list[tuple[str, str]]:
    """The measurements of a method: (side, precision and option)."""
    found = [("tandem", "auto")]
    for precision in precisions:
        found += [("trl", precision), ("trl", f"{precision}+checkpointed")]
        if what == "dpo":
            found.append(("trl", f"{precision}+precomputed"))
    return found


def compare(what: str, work: Workload, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Alternate the sides; return medians, ratios, memory, and what both computed."""
    runs: dict[str, list[Any]] = {}
    for _ in range(args.repeat):
        for side, precision in ways(what, args.precisions):
            label = "tandem" if side == "tandem" else f"trl-{precision}"
            runs.setdefault(label, []).append(child(side, what, work, precision, folder, args))
            print(f"{what} lora {work.lora} {label}: {runs[label][-1]['step']:.2f} s", flush=True)
    step = {label: statistics.median(r["step"] for r in rs) for label, rs in runs.items()}
    live = [n for n in step if n.startswith("trl") and not n.endswith("precomputed")]
    best = min(live, key=lambda label: step[label])
    row = {"what": what, "lora": work.lora, "pairs": work.records, "trl_taken_at": best}
    timed = replace(work, name="own")
    row |= speeds(what, timed, step, best, runs) | others(runs, best)
    row |= processed(what, runs, step, best)
    row["agreement"] = agreement(what, runs, best)
    print(line(row), flush=True)
    return row


def processed(
    what: str, runs: dict[str, list[Any]], step: dict[str, float], best: str
) -> dict[str, Any]:
    """Tokens a second that went through a model; DPO's reference reads each once more."""
    passes = 2 if what == "dpo" else 1
    seconds = step["tandem"] + statistics.median(r["reference"] for r in runs["tandem"])
    mine = passes * runs["tandem"][0]["tokens_per_step"] / seconds
    theirs = runs[best][0]["tokens_per_step"] / step[best]
    rate = {"tandem": mine, "trl": theirs}
    return {"processed_tokens_per_second": rate, "per_processed": mine / theirs}


def line(row: dict[str, Any]) -> str:
    """One row as a line of text."""
    step, best = row["seconds_per_step"], row["trl_taken_at"]
    loss = row["agreement"]["mean_loss"]
    return (
        f"{row['what']:7} lora {row['lora']:2}: tandem {step['tandem']:.2f} s/step (+ reference "
        f"{row['reference_seconds_per_step']:.2f}), {best} {step[best]:.2f}: "
        f"{row['speed_live']:.1f}x live, {row['speed_cached']:.1f}x cached, "
        f"{row['per_processed']:.2f}x per processed token; peak {row['peak_gb']['tandem']:.2f} GB "
        f"against {', '.join(f'{k} {v:.2f}' for k, v in row['peak_gb'].items() if k != 'tandem')}; "
        f"loss {loss['tandem']:.4f} against {loss['trl']:.4f}"
    )


def child(
    side: str, what: str, work: Workload, precision: str, folder: Path, args: argparse.Namespace
) -> Any:
    """Measure one side in a process of its own."""
    told = [side, what, json.dumps(asdict(work)), precision, str(folder), str(args.threads)]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env = {**os.environ, **quiet, "TRL_EXPERIMENTAL_SILENCE": "1"}
    env["OMP_NUM_THREADS"] = str(args.threads)
    words = [sys.executable, __file__, "--child", *told]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} {what} {precision} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(side: str, what: str, work: str, precision: str, folder: str, threads: str) -> None:
    """Be the child: measure, and print one line of JSON."""
    import importlib
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(threads))
    told = json.loads(work)
    pair = {k: tuple(told[k]) for k in ("prompt", "answer")}
    workload = Workload(**told | pair | {"shape": Shape(**told["shape"])})
    found = importlib.import_module(f"{side}_side").run(what, workload, Path(folder), precision)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
