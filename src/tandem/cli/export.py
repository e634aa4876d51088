"""`tandem export RUN --out FOLDER`: a run's model as a folder to give away, with its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from tandem.cli.settings import make_parser, parse_words, read_file
from tandem.errors import ConfigError


def export_model_command(words: Sequence[str]) -> int:
    """Write a trained model, its tokenizer and its card into a folder."""
    parser = make_parser("export", "Write a trained model and its card into a folder.")
    parser.add_argument("run", type=str, help="a run's folder, one of its stages, or a model")
    parser.add_argument("--out", type=str, default="", help="the folder to write; new or empty")
    parser.add_argument(
        "--dtype",
        type=Literal["fp32", "bf16", "fp16"] | None,  # type: ignore[arg-type]
        default=None,
        help="of the weights; as they are if not given",
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
        exporting.export_weights(policy, out, options.dtype)
    if converter is not None:
        dtype = options.dtype or "bf16"
        exporting.write_gguf(converter, out, out / f"{out.name}-{dtype}.gguf", dtype)
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


def _adapter_base(run: Path, policy: Path) -> str | None:
    """Return what an adapter stands on, as others will look for it: the model that was given to
    the run, or the folder of an earlier stage (SFT), whose weights are others."""
    from tandem.models.model_finder import find_model
    from tandem.runs.policies import run_policies
    from tandem.runs.records import read_record

    init = read_record(policy.parent).arguments.get("init")
    wanted = init.get("checkpoint") if isinstance(init, dict) else None
    file = run / "run.toml"
    model = read_file(file).get("model") if file.is_file() else None
    if isinstance(model, str) and find_model(model).hash == wanted:
        return model
    earlier = [p for _, p in run_policies(run) if p.hash == wanted]
    return str(earlier[0].path.resolve()) if earlier else None
