"""The forward pass of every trained module: packed tokens in, `Outputs` out.

The only place that shifts by one, and the only one that uses the language head: completion
positions alone reach it. The kernel is the `forward` of the trained module, so that DDP and FSDP
see their hooks; auxiliary heads are named parts of that module.

`probe` compares the shared layout with one sequence a row on two toy groups when a model is
loaded, and picks. Nothing trusts a list of architectures.

Shapes: R rows, L columns, T trained tokens, N completions, d width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.batching.batch import Outputs, Packed
from tandem.batching.packing import Layout
from tandem.batching.ragged import Ragged
from tandem.kernels.logprobs import Logits, token_logp
from tandem.models.lora import unwrap_adapters

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What architectures call the value that their logits do not reach."""


class PackedModel(nn.Module):
    """A Hugging Face model with its heads, read one packed batch at a time.

    Args:
        lm: a causal language model, or a sequence classifier with one label (a scalar head).
        heads: further heads on the body's last hidden state by name; `value` is read before each
            trained token, others are for objectives that read `features`.
        dtype: compute dtype; parameters stay as they are (fp32 master weights under bf16).
        temperature: logits are divided by it, the same number in sampling and here.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        heads: dict[str, nn.Module] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.lm = lm
        self.heads = nn.ModuleDict(heads or {})
        self.dtype = dtype
        self.temperature = temperature
        self.layout: Layout = "rows"
        self.narrow = False

    @property
    def inner(self) -> PreTrainedModel:
        """The model without a PEFT wrapper; its layers still carry the adapters."""
        return unwrap_adapters(self.lm)

    @property
    def body(self) -> nn.Module:
        """The transformer below the head."""
        inner: Any = self.inner
        found = getattr(inner, inner.base_model_prefix, None)
        return inner.model if found is None else found  # a text model of a larger family

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast context of this module's compute dtype."""
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if low else torch.bfloat16, enabled=low)

    def forward(
        self,
        tokens: Packed,
        *,
        logp: bool = True,
        entropy: bool = False,
        features: bool = False,
    ) -> Outputs:
        """Read one pack.

        Args:
            tokens: the packed completions.
            logp: compute token log-probabilities, if there is a language head.
            entropy: also compute each predicting distribution's entropy.
            features: also return the last hidden state at each completion's last token.
        """
        logp = logp and self.inner.get_output_embeddings() is not None
        scalar = getattr(self.inner, "score", None)
        read = {"source": logp or "value" in self.heads, "last": features or scalar is not None}
        with self.precision():
            states = self.states(tokens, *(name for name, wanted in read.items() if wanted))
        fields: dict[str, Any] = {}
        if logp:
            values, ent = self.read_head(states["source"], tokens.target, entropy)
            fields["logp"] = Ragged(values, tokens.owner, tokens.n)
            fields["entropy"] = None if ent is None else Ragged(ent, tokens.owner, tokens.n)
        if "value" in self.heads:
            before = states["source"].float()
            fields["value"] = Ragged(self.heads["value"](before)[:, 0], tokens.owner, tokens.n)
        if "last" in states:
            last = states["last"].float()
            if scalar is not None:
                fields |= _head_outputs(scalar(last))
            fields["features"] = last if features else None
        return Outputs(**fields)

    def states(self, tokens: Packed, *names: str) -> dict[str, Tensor]:
        """Return the body's last states [T or N, d] where they are read: `source`, `last`."""
        if not names:
            return {}
        at = {"source": tokens.source, "last": tokens.last}
        extra: dict[str, Any] = {"position_ids": tokens.positions}
        if tokens.plan is None:
            extra["attention_mask"] = tokens.real.long()
        else:
            # a mask of four dimensions is passed through untouched; the plan replaces it
            extra["attention_mask"] = torch.empty(1, 1, 1, 1, device=tokens.ids.device)
            extra["segments"] = tokens.plan
            if self.narrow:
                extra["tail"] = tail = tokens.plan.tail(*names)
                at = tail.at
        out = self.body(input_ids=tokens.ids, use_cache=False, **extra)
        states = out.last_hidden_state.flatten(0, 1)
        return {name: states[at[name]] for name in names}

    def read_head(
        self, h: Tensor, target: Tensor, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities [T] of targets [T] under states [T, d], and entropies."""
        head: Any = self.inner.get_output_embeddings()
        form = self.logits()
        form = Logits(form.scale / self.temperature, form.cap)
        bias = getattr(head, "bias", None)
        return token_logp(h.to(self.dtype), head.weight, bias, target, form, entropy)

    def logits(self) -> Logits:
        """What this architecture does to its logits, from its configuration."""
        config = self.inner.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        caps = (getattr(config, name, None) for name in CAPS)
        return Logits(scale, next((float(cap) for cap in caps if cap), None))


class ActorCritic(nn.Module):
    """A policy and its value function as one trained module; the actor is what is exported.

    Args:
        actor: the policy's trunk; with a `value` head of its own when `critic` is None.
        critic: a trunk of its own with a `value` head, or None for one trunk with two heads.
    """

    def __init__(self, actor: PackedModel, critic: PackedModel | None = None) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    @property
    def layout(self) -> Layout:
        """`shared` when both models can read the shared-prompt layout, else `rows`."""
        trunks = [t for t in (self.actor, self.critic) if t is not None]
        return "shared" if all(t.layout == "shared" for t in trunks) else "rows"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.actor.device

    def forward(self, tokens: Packed, **want: bool) -> Outputs:
        """Run actor and critic on one packed batch."""
        out: Outputs = self.actor(tokens, **want)
        if self.critic is None:
            return out
        value = self.critic(tokens, logp=False).value
        return replace(out, value=value)


def _head_outputs(outputs: Tensor) -> dict[str, Tensor]:
    """Name the outputs [N, 1 + 2k] of a head on the last token: a score, and an embedding."""
    if outputs.shape[1] == 1:
        return {"score": outputs[:, 0]}
    return {"score": outputs[:, 0], "embedding": outputs[:, 1:]}
