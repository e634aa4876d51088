"""Completions from the machines of a Ray cluster; a machine that is lost changes none of them.

Prompts are cut into units of work as our own engine cuts them. A unit's draws depend on
(seed, prompt id, i), and its arithmetic on its own prompts.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.engines.ray.policy_copy import PolicyShape, pack_weights
from tandem.engines.ray.worker_pool import shared_pool
from tandem.engines.torch import cut_units
from tandem.models.lora import unwrap_adapters
from tandem.rng import Seed
from tandem.runs.heartbeat import count_tokens

UNIT_ROWS = 64
"""Completions in a unit of work: few enough that a step's prompts occupy several machines."""


class RayEngine:
    """Draws completions on every machine of a cluster, from copies of the policy.

    Args:
        lm: the policy, a model of transformers with adapters or without.
        tokenizer: its tokenizer; prompts bring their tokens, this one writes the text.
        dtype: what the workers compute in.
        name: written as the completions' author.
        unit_rows: completions in a unit of work, at least one prompt's.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is no cluster where RAY_ADDRESS says.
    """

    is_exact = False

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: Any,
        *,
        dtype: torch.dtype = torch.float32,
        name: str = "policy",
        unit_rows: int = UNIT_ROWS,
    ) -> None:
        self.pool = shared_pool()
        self.name, self.dtype, self.unit_rows = name, dtype, unit_rows
        self._key = self.pool.add("policy", _shape_of(lm, tokenizer, dtype, name, unit_rows))
        self._lm, self._version = lm, 0
        self._weights: Any = None
        self._closing = weakref.finalize(self, self.pool.remove, self._key)

    def load(self, weights: nn.Module) -> None:
        """Sample from a live module's weights from now on; adapters are added to their layers.

        The weights before are dropped, so that the cluster holds one set. These are handed over
        when they are sampled.
        """
        self._lm, self._weights = weights, None
        self._version += 1

    def close(self) -> None:
        """Let the workers forget the policy."""
        self._closing()

    def sample(
        self, prompts: Iterable[Group], n: int, sampling: Sampling, seed: Seed
    ) -> Iterator[Group]:
        """Return each prompt with n new completions, in the order of the prompts.

        Raises:
            EngineError: what a worker refused; or no machine is left, or one unit lost worker
                after worker.
        """
        if self._weights is None:
            self._weights = self.pool.ray.put(pack_weights(self._lm, self.dtype))
        units = cut_units(prompts, n, self.unit_rows)
        return self._draws(units, (self._version, self._weights, n, sampling, seed))

    def _draws(self, units: Iterator[list[Group]], given: tuple[Any, ...]) -> Iterator[Group]:
        for group in self.pool.work(self._key, units, lambda unit: (unit, *given)):
            count_tokens("drawn", sum(len(c.tokens) for c in group.completions))
            yield group


def _shape_of(
    lm: Any, tokenizer: Any, dtype: torch.dtype, name: str, unit_rows: int
) -> PolicyShape:
    inner = unwrap_adapters(lm)
    config = copy.deepcopy(inner.config)
    config._attn_implementation = None  # ours is known in the process alone that registered it
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    generation = getattr(inner, "generation_config", None)
    return PolicyShape(type(inner), config, generation, tokenizer, dtype, name, unit_rows)
