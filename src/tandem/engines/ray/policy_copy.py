"""A policy on its way to the workers: its shape once, and its weights as they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save

from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import EngineError
from tandem.models.devices import cast_model
from tandem.models.lora import merged_weights
from tandem.rng import Seed

Packed = npt.NDArray[np.uint8]
"""Weights as safetensors writes them, in an array that Ray hands over without a copy."""


@dataclass(frozen=True)
class PolicyShape:
    """All that a worker needs to open a policy, but for its weights: a `Job`.

    Attributes:
        kind: the model's class.
        config: its configuration.
        generation: its settings of generation, which name end tokens.
        tokenizer: writes the texts.
        dtype: the workers compute in it.
        name: the completions' author.
        unit_rows: completions in a unit of work.
    """

    kind: type
    config: Any
    generation: Any
    tokenizer: Any
    dtype: torch.dtype
    name: str
    unit_rows: int

    def open(self) -> PolicyCopy:
        """Build the model; its weights come with the first unit."""
        lm = self.kind(self.config)
        if self.generation is not None:
            lm.generation_config = self.generation
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return PolicyCopy(self, cast_model(lm, self.dtype, device).eval())


def pack_weights(lm: Any, dtype: torch.dtype) -> Packed:
    """Return a model's weights, adapters added to their layers, as one array of bytes."""
    weights = {name: value.to("cpu", dtype).contiguous() for name, value in merged_weights(lm)}
    return np.frombuffer(save(weights), np.uint8)


class PolicyCopy:
    """Draws units of completions from the weights that come with them.

    Args:
        shape: of the policy.
        lm: the model, its weights not yet read.
    """

    def __init__(self, shape: PolicyShape, lm: Any) -> None:
        self._shape, self._lm, self._version = shape, lm, -1
        self._engine: TorchEngine | None = None

    def __call__(
        self,
        unit: list[Group],
        version: int,
        weights: Packed,
        n: int,
        sampling: Sampling,
        seed: Seed,
    ) -> list[Group]:
        """Return a unit's prompts with n new completions each.

        Args:
            unit: the prompts.
            version: counts the weights; they are read when it is another than before.
            weights: of `pack_weights`.
            n: completions of each.
            sampling: how they are drawn.
            seed: what they are drawn with.

        Raises:
            EngineError: as the engine does; or the weights are not those of the policy's class.
        """
        if version != self._version:
            self._take(weights)
            self._version = version
        shape = self._shape
        if self._engine is None:  # its decoder is tried out on weights, so it comes after them
            self._engine = TorchEngine(
                self._lm, shape.tokenizer, name=shape.name, unit_rows=shape.unit_rows
            )
        return list(self._engine.sample(unit, n, sampling, seed))

    def _take(self, packed: Packed) -> None:
        missing, unknown = self._lm.load_state_dict(load(packed.tobytes()), strict=False)
        self._lm.tie_weights()
        tied = set(getattr(self._lm, "all_tied_weights_keys", ()) or ())
        if unknown or set(missing) - tied:
            raise EngineError(
                f"weights that fit no layer: {', '.join([*unknown, *missing][:3])}",
                "a worker builds the policy from its configuration alone",
                "leave machine.engine out: our own engine samples the model that is trained",
            )
