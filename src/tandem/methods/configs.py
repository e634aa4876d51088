"""Configs that hold other methods' configs, filled from those methods' own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

PreferenceKind = Literal["cyclic", "pairs", "reward", "people", "llm"]
"""Who says which of two answers is better: a scalar plus cyclic model, a model of two arguments, a
reward (Bradley-Terry), the task's people themselves, or a language model."""

SHARED = {"shared": True}
"""Metadata of a field that holds another method's config as that method's own table sets it."""


def shared_parts(config: Any) -> list[str]:
    """Name the methods whose configs a config holds as they are set elsewhere: RLP's PPO is PPO."""
    return [f.name for f in fields(config) if f.metadata.get("shared")]


def all_shared_parts(config: Any) -> list[str]:
    """Name the methods of `parts`, and theirs."""
    own = shared_parts(config)
    return [*own, *(name for part in own for name in all_shared_parts(getattr(config, part)))]


def with_shared_parts(config: Any, configs: Mapping[str, Any]) -> Any:
    """Return a config with its shared parts as they were set."""
    held = {name: with_shared_parts(configs[name], configs) for name in shared_parts(config)}
    return replace(config, **held)
