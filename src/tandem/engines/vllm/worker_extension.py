"""Read by vLLM's own Python, never by this package: a worker that takes new weights in place.

vLLM mixes this class into its workers (`--worker-extension-cls`). It stands alone, so that vLLM
may live in an environment of its own, with other versions of everything.
"""

from __future__ import annotations

from typing import Any


class WeightFiles:
    """Methods that a vLLM worker gains."""

    model_runner: Any

    def take_weight_file(self, path: str) -> str:
        """Load a safetensors file, named as in a checkpoint, into the model that is served."""
        from safetensors.torch import load_file

        self.model_runner.reload_weights(weights_iterator=iter(load_file(path).items()))
        return "taken"
