"""`tandem plan METHOD`: what a run will take, before it: memory, tokens, time and disk.

It takes every option of `tandem run METHOD`. Nothing is written. Without a method it plans a step
on a cluster (`cluster_plan`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.cli import run as run_command
from tandem.cli.extent import resolve_extent
from tandem.cli.reward_choice import check_reward_choice, open_reward_choice
from tandem.machine import GIB, Machine
from tandem.methods import METHODS
from tandem.runs.display import spell_duration

if TYPE_CHECKING:
    from tandem.pipeline.cost_estimate import RunEstimate

PARTS = {
    "held": "libraries, data, frozen models",
    "weights": "weights",
    "optimizer": "gradients and optimiser",
    "casts": "weights in low precision",
    "logits": "logits",
    "activations": "activations",
    "passing": "backward pass, for a moment",
}
USAGE = """usage: tandem plan METHOD [the options of `tandem run METHOD`]
       tandem plan --params 70B --nodes 8 --gpus 8 [--help]

Prints what the run will take: memory by part, tokens, time and disk of each fit.
Nothing is written. Exit code 1 where it does not fit. The second form is a step on
a cluster, on paper.

methods:
"""


def plan_command(words: Sequence[str]) -> int:
    """Print what a run will take; 1 where it does not fit."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE + "\n".join(f"  {name:<10}  {row.title}" for name, row in METHODS.items()))
        return 0
    if words[0].startswith("--"):
        from tandem.cli.cluster_plan import cluster_command

        return cluster_command(words)
    method, options, configs, files = run_command.read_method_words(words)
    machine: Machine = configs["machine"]
    run_command.check_given(options)
    check_reward_choice(options, method, configs[method.name])
    model = run_command.find_given_model(options.model)
    folder = None if model is None else str(model.path)
    run_command.check_machine(folder, machine)
    run_command.check_rollouts_ahead(method.name, machine)
    extent = resolve_extent(options, words[1:], files, method, folder)
    task = run_command.open_task(options, configs["sizes"], model)
    given = open_reward_choice(options, task)

    from tandem.models.devices import resolve_device
    from tandem.pipeline.cost_estimate import estimate_run
    from tandem.training.free_memory import usable_memory

    total = usable_memory(resolve_device(machine))
    there = total if total is not None else 1 << 62
    found = estimate_run(method, configs, task, there, extent.start, extent.evaluate, given)
    place = run_command.run_folder(method.name, options, task)
    free = shutil.disk_usage(_existing(place)).free
    print("\n".join([*table_lines(found), "", *room_lines(found, total, free, machine)]))
    return int((total is not None and found.memory > total) or found.disk + found.scratch > free)


def table_lines(found: RunEstimate) -> Iterator[str]:
    """Yield a column for each fit: memory by part in GiB, then tokens, time and disk."""
    rows: list[tuple[str, list[str]]] = [("", [fit.name for fit in found.fits])]
    for part, label in PARTS.items():
        rows.append((label, [_gib(fit.need.parts()[part]) for fit in found.fits]))
    rows.append(("memory, GiB", [_gib(fit.need.total) for fit in found.fits]))
    rows.append(("tokens", [f"{fit.tokens:,}" for fit in found.fits]))
    rows.append(("tokens a micro-batch", [f"{fit.microbatch:,}" for fit in found.fits]))
    rows.append(("time", [spell_duration(fit.seconds) for fit in found.fits]))
    rows.append(("disk, GiB", [_gib(fit.disk) for fit in found.fits]))
    rows.append(("times", [f"{fit.times}" for fit in found.fits]))
    wide = max(len(label) for label, _ in rows)
    for label, cells in rows:
        yield f"{label:<{wide}}  " + "  ".join(f"{cell:>12}" for cell in cells)


def room_lines(found: RunEstimate, total: int | None, free: int, machine: Machine) -> Iterator[str]:
    """Yield whether it fits, and what to change where it does not."""
    there = "unknown" if total is None else f"{_gib(total)} GiB"
    fits = total is None or found.memory <= total
    yield f"memory: about {_gib(found.memory)} GiB at most; available: {there}"
    yield f"time of all fits: about {spell_duration(found.seconds)}; sampling comes on top"
    yield (
        f"disk: {_gib(found.disk)} GiB of models stay, {_gib(found.scratch)} GiB more while a fit "
        f"runs; free: {_gib(free)} GiB"
    )
    if not fits:
        yield "it does not fit into memory. What helps, cheapest first:"
        yield from (f"  {line}" for line in advice_lines(found, machine))
    if found.disk + found.scratch > free:
        yield "it does not fit on the disk: make room, or give --out on another disk"
    if fits and found.disk + found.scratch <= free:
        yield "it fits"


def advice_lines(found: RunEstimate, machine: Machine) -> Iterator[str]:
    """Yield settings that would lower the memory and are not given yet."""
    largest = max(found.fits, key=lambda fit: fit.need.total).need
    half = found.memory / 2
    if found.longest > 2 * found.usual > 0:
        yield (
            f"--data.max_length {found.usual * 2}: the longest row has {found.longest:,} tokens, "
            f"a usual one {found.usual:,}"
        )
    if machine.lora is None and largest.optimizer > half / 2:
        yield "--machine.lora.rank 16: adapters alone have gradients and moments"
    if machine.quantise == "none" and largest.weights > half / 2:
        also = "" if machine.lora else "--machine.lora.rank 16 "
        yield f"{also}--machine.quantise nf4: frozen weights in 4 bits, by the extra `quantise`"
    if machine.precision == "fp32":
        yield "--machine.precision bf16: activations take half"
    if largest.held > half:
        yield "close other programs, or choose a method with fewer models (dpo, grpo)"
    yield "a smaller model"


def _existing(path: Path) -> Path:
    """Return the nearest folder above a path that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
