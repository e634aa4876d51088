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
        repack_tables(self.model_runner.get_model())
        return "taken"


def repack_tables(model: Any) -> None:
    """Make the packed copies of tables on a CPU anew from the weights beside them.

    On a CPU vLLM multiplies by a packed copy of each matrix. Loading makes those copies of the
    layers that a file names. A language head that is the embeddings' own table is not named, and
    its copy would stay that of the old weights.
    """
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "cpu_linear") and weight is not None and weight.numel():
            layer.quant_method.process_weights_after_loading(layer)
