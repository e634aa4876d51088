"""Facts about a model folder from its config, without reading weights: kind, context, layers."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    GenerationConfig,
)
from transformers.utils import logging as hub

from tandem.data.chat.ends import named_ends
from tandem.errors import ModelError
from tandem.runs.weight_files import read_model_json

Source = Path | str
"""A model folder, or the id of a model on the hub."""

UNREADABLE = (Exception,)
"""What transformers raises for a folder that is broken in one way or another: anything."""


ODD = (AttributeError, LookupError, TypeError, ArithmeticError, AssertionError)
"""Errors whose message alone says little."""


def check_exists(source: Source) -> None:
    """Refuse a local path that is no model folder.

    Raises:
        ModelError: it has no config.json.
    """
    looks_local = isinstance(source, Path) or str(source).startswith((".", "/", "~"))
    if looks_local and not (Path(source) / "config.json").exists():
        raise ModelError(
            f"{source} is not a model folder: it has no config.json",
            "models are Hugging Face folders",
            "give the folder that `save_pretrained` made, or the id of a model on the hub",
        )


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep transformers' notes and bars off the screen; errors still raise."""
    bars = hub.is_progress_bar_enabled()
    hub.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("transformers", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            hub.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    said = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {said}" if isinstance(error, ODD) else said or repr(error)


def layer_count(source: Source) -> int:
    """Return how many layers a model has."""
    return int(getattr(read_config(source), "num_hidden_layers", 1))


def context_length(source: Source) -> int:
    """Return how many tokens a model can read."""
    config = read_config(source).get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(limit or 2**31)


def generation_ends(source: Source) -> tuple[int, ...]:
    """Return the end tokens that a model's generation settings name."""
    return named_ends(_generation_config(source))


def generation_fault(source: Source) -> str:
    """Return what is wrong with a model's generation settings, or nothing."""
    try:
        config = _generation_config(source)
        if config is not None:
            config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def _generation_config(source: Source) -> Any:
    check_exists(source)
    try:
        with without_warnings():
            return GenerationConfig.from_pretrained(str(source))
    except UNREADABLE:
        return None  # a folder may have none: the model's own ends then count


def read_config(source: Source) -> Any:
    """Return a model's configuration.

    Raises:
        ModelError: there is none that can be read.
    """
    check_exists(source)
    file = Path(source) / "config.json"
    if not file.is_file():
        return _parse_config(source)
    read_model_json(file)
    found = file.stat()
    return copy.deepcopy(_kept_config(str(source), found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=16)
def _kept_config(source: str, *_: int) -> Any:
    """Return a folder's configuration; a plan asks for it a dozen times, and each costs 20 ms."""
    return _parse_config(source)


def _parse_config(source: Source) -> Any:
    try:
        with without_warnings():
            return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(
            f"{source} has no configuration that can be read: {first_line(error)}",
            "config.json names an architecture that transformers knows",
            "give a Hugging Face folder of a causal language model, or a newer transformers",
        ) from error
