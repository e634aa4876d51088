"""`tandem export RUN --out FOLDER`: a run's model as a folder to give away, with its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from tandem.cli.settings import make_parser, parse_words, read_file
from tandem.errors import ConfigError, TandemError

LEAST_KEPT = 0.9
"""Share of what training changed that a smaller dtype has to keep, or fp32 is exported."""


def export_model_command(words: Sequence[str]) -> int:
    """Write a trained model, its tokenizer and its card into a folder."""
    parser = make_parser("export", "Write a trained model and its card into a folder.")
    parser.add_argument("run", type=str, help="a run's folder, one of its stages, or a model")
    parser.add_argument("--out", type=str, default="", help="the folder to write; new or empty")
    parser.add_argument(
        "--dtype",
        type=Literal["fp32", "bf16", "fp16"] | None,  # type: ignore[arg-type]
        default=None,
        help="of the weights; if not given, that of the model that the run began with, or fp32 "
        "where rounding would undo what was trained",
    )
    parser.add_argument(
        "--merge", action="store_true", help="the default: adapters are merged into the weights"
    )
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter alone")
    parser.add_argument("--gguf", action="store_true", help="also one GGUF file, by llama.cpp")
    options = parse_words(parser, words)
    out = _checked_out(options)
    from tandem.models import exporting

    converter = exporting.find_gguf_converter() if options.gguf else None
    policy, run = _policy(options.run)
    if options.adapter:
        base = None if run is None else _adapter_base(run, policy)
        exporting.export_adapter(policy, out, base)
        print(f"the adapter stands on {base or 'a model that nobody knows here'}")
    else:
        dtype = _dtype(options.dtype, policy, _start(run))
        exporting.export_weights(policy, out, dtype)
    if converter is not None:
        packed = options.dtype or "bf16"
        exporting.write_gguf(converter, out, out / f"{out.name}-{packed}.gguf", packed)
    if run is not None:
        from tandem.report.model_card import write_model_card

        write_model_card(run, out, adapter=options.adapter)
    print("\n".join(f"{f.stat().st_size:>14,}  {f}" for f in sorted(out.iterdir())))
    return 0


def _checked_out(options: Namespace) -> Path:
    if not options.out:
        raise ConfigError("--out is missing", "a model is written there", "give --out FOLDER")
    if options.adapter and (options.merge or options.dtype or options.gguf):
        raise ConfigError(
            "--adapter with --merge, --dtype or --gguf",
            "an adapter alone is written as it was trained; the others are about whole weights",
            "leave --adapter out, or leave the others out",
        )
    out = Path(options.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {out} is not empty",
            "what lies there would be mixed with the model's files, or lost",
            "give a new folder",
        )
    return out


def _policy(given: str) -> tuple[Path, Path | None]:
    """Return a policy's folder, and that of the run that made it, where one did."""
    from tandem.models.checks import check_policy
    from tandem.models.loading import check_weights
    from tandem.models.model_finder import find_model
    from tandem.runs.policies import is_run, policy_of

    folder = Path(given).expanduser()
    if (policy := policy_of(folder) if folder.is_dir() else None) is not None:
        check_weights(policy.path)
        run = folder if is_run(folder) else folder.parent
        return policy.path, run if is_run(run) else None
    found = find_model(given).path
    check_policy(found)
    return found, None


def _start(run: Path | None) -> Path | None:
    """Return the folder of the model that was given to a run, where it is still there."""
    from tandem.models.model_finder import find_model

    model = None if run is None else _given_model(run)
    try:
        return None if model is None else find_model(model).path
    except TandemError:
        return None


def _given_model(run: Path) -> str | None:
    file = run / "run.toml"
    model = read_file(file).get("model") if file.is_file() else None
    return model if isinstance(model, str) else None


def _dtype(asked: str | None, policy: Path, start: Path | None) -> str | None:
    """Return the dtype to write, and say what it does to the training; None leaves it as it is."""
    from tandem.models import exporting
    from tandem.models.saving import STORED, stored_dtype

    names = {STORED[name]: name for name in ("fp32", "bf16", "fp16")}
    if start is None:
        return asked
    wanted = asked or names[stored_dtype(start)]
    if STORED[wanted] == stored_dtype(policy):
        return None
    kept = exporting.share_kept_by_rounding(policy, start, STORED[wanted])
    if kept is None:
        return wanted
    told = f"{wanted} keeps {kept:.0%} of what training changed"
    if asked is None and kept < LEAST_KEPT:
        print(f"{told}, so the weights stay as they were trained (--dtype {wanted} rounds them)")
        return None
    print(told)
    return wanted


def _adapter_base(run: Path, policy: Path) -> str | None:
    """Return what an adapter stands on, as others will look for it: the model that was given to
    the run, or the folder of an earlier stage (SFT), whose weights are others."""
    from tandem.models.model_finder import find_model
    from tandem.runs.policies import run_policies
    from tandem.runs.records import read_record

    init = read_record(policy.parent).arguments.get("init")
    wanted = init.get("checkpoint") if isinstance(init, dict) else None
    model = _given_model(run)
    if model is not None and find_model(model).hash == wanted:
        return model
    earlier = [p for _, p in run_policies(run) if p.hash == wanted]
    return str(earlier[0].path.resolve()) if earlier else None
