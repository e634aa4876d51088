"""`tandem doctor`: is this machine ready? One line a check, with the fix where there is one."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from tandem.cli.settings import make_parser, parse_words
from tandem.errors import TandemError
from tandem.machine import GIB
from tandem.runs.environment import package_versions, processor_name

OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how it stands, what was looked at, what was found, and the fix."""

    state: Literal["pass", "warn", "fail"]
    what: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.state}  {self.what:<14} {self.found}"
        return f"{line}\n      {'fix:':<14} {self.fix}" if self.fix else line


def doctor_command(words: Sequence[str]) -> int:
    """Print the findings; exit code 1 if one of them is a failure."""
    parser = make_parser("doctor", "Check this machine, line by line, with the fix.")
    parser.add_argument("--model", type=str, default=None, help="also check this model folder")
    options = parse_words(parser, words)
    findings = [finding for check in CHECKS for finding in check()]
    if options.model is not None:
        findings += check_given_model(options.model)
    for finding in findings:
        print(finding)
    return int(any(finding.state == "fail" for finding in findings))


def check_python() -> Iterator[Finding]:
    """The interpreter's version."""
    found = f"{platform.python_version()} on {platform.platform(terse=True)}"
    if sys.version_info >= OLDEST_PYTHON:
        yield Finding("pass", "python", found)
    else:
        yield Finding("fail", "python", found, "install Python 3.11 or newer")


def check_packages() -> Iterator[Finding]:
    """Every package that a method needs imports."""
    for name in ("torch", "transformers", "accelerate", "peft", "datasets", "pyarrow"):
        try:
            importlib.import_module(name)
        except Exception as error:
            fix = f"pip install --force-reinstall {name}"
            yield Finding("fail", name, f"does not import: {error}", fix)
        else:
            yield Finding("pass", name, str(package_versions().get(name)))


def check_extras() -> Iterator[Finding]:
    """What 4-bit weights need."""
    from tandem.models.quantised import INSTALL, has_bitsandbytes

    if has_bitsandbytes():
        yield Finding("pass", "4-bit weights", f"bitsandbytes {version('bitsandbytes')}")
    else:
        yield Finding("pass", "4-bit weights", f"not here; --machine.quantise nf4 needs {INSTALL}")


def check_device() -> Iterator[Finding]:
    """The processor, the GPU and what they multiply natively."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("pass", "cpu", f"{processor_name()}, {cores} cores for this process")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        yield Finding("pass", "gpu", f"{name}, CUDA {torch.version.cuda}")
    elif torch.version.cuda and Path("/proc/driver/nvidia").exists():
        fix = "install a driver that is new enough for this CUDA version, see nvidia-smi"
        yield Finding("fail", "gpu", f"torch for CUDA {torch.version.cuda} sees none", fix)
    else:
        yield Finding("pass", "gpu", "none; small models train on the processor")
    native = torch.cuda.is_available() or _cpu_has("amx_bf16", "avx512_bf16", "bf16")
    fast = "native" if native else "emulated, so fp32 is the default"
    yield Finding("pass", "bf16", fast)


def _cpu_has(*flags: str) -> bool:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not words.isdisjoint(flags)


def check_space() -> Iterator[Finding]:
    """Memory and disk."""
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        enough = free > 2 * GIB
        fix = "" if enough else "close other programs, or lower machine.tokens"
        yield Finding("pass" if enough else "warn", "memory", f"{free / GIB:.1f} GiB free", fix)
    free = shutil.disk_usage(Path.cwd()).free
    enough = free > 5 * GIB
    fix = "" if enough else "make room, or choose another disk with --out"
    yield Finding("pass" if enough else "warn", "disk", f"{free / GIB:.1f} GiB free here", fix)


def check_folders() -> Iterator[Finding]:
    """Places that are written to."""
    for what, folder in (("runs", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        if os.access(folder, os.W_OK):
            yield Finding("pass", what, f"{folder} can be written")
        else:
            yield Finding("fail", what, f"{folder} cannot be written", "choose another folder")


def check_network() -> Iterator[Finding]:
    """A port on this machine (for the pages), and whether the hub may be asked."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        yield Finding("pass", "loopback", "a port can be opened on 127.0.0.1")
    except OSError as error:
        yield Finding("warn", "loopback", str(error), "pages cannot be shown here")
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    yield Finding("pass", "hub", "offline, folders only" if offline else "asked for hub ids only")


def check_given_model(given: str) -> Iterator[Finding]:
    """A model as it was given: found, fetched or made, then looked at."""
    from tandem.models.model_finder import find_model

    try:
        path = find_model(given).path
    except TandemError as error:
        yield Finding("fail", "model", error.what, error.do)
        return
    yield from check_model(path)


def check_model(path: Path) -> Iterator[Finding]:
    """A model folder: tokenizer, end of sequence, chat template, context."""
    from transformers import AutoConfig, AutoTokenizer

    from tandem.models.checks import check_policy

    try:
        check_policy(path)
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except TandemError as error:
        yield Finding("fail", "model", error.what, error.do)
        return
    except (OSError, ValueError) as error:
        fix = "give a folder with config.json, safetensors and a tokenizer"
        yield Finding("fail", "model", " ".join(str(error).split())[:200], fix)
        return
    context = getattr(config, "max_position_embeddings", None)
    yield Finding("pass", "model", f"{config.model_type}, context {context}")
    from tandem.data.chat.ends import closing_tokens, end_tokens
    from tandem.models.folders import generation_ends, generation_fault

    eos = tokenizer.eos_token
    fix = "" if eos else "set tokenizer.eos_token: without it no answer ends"
    yield Finding("pass" if eos else "fail", "end token", str(eos), fix)
    named = generation_ends(path)
    ends = tokenizer.convert_ids_to_tokens(sorted(end_tokens(tokenizer, named)))
    lost = set(closing_tokens(tokenizer)) - {*named, tokenizer.eos_token_id}
    fix = "other programs need it in generation_config.json; a trained model's folder has it"
    found = f"answers end at {', '.join(map(str, ends))}"
    yield Finding("warn" if lost else "pass", "ends", found, fix if lost else "")
    if fault := generation_fault(path):
        fix = "a trained model's folder gets do_sample true; or take the setting out"
        yield Finding("warn", "generation", fault[:200], fix)
    template = "present" if tokenizer.chat_template else "none"
    fix = "" if tokenizer.chat_template else "conversations are joined as plain text"
    state = "pass" if tokenizer.chat_template else "warn"
    yield Finding(state, "chat template", template, fix)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_extras,
    check_device,
    check_space,
    check_folders,
    check_network,
)
