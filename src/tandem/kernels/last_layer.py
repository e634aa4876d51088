"""The last layer, for those tokens alone whose states are read.

A reward is read at the last token of an answer, log-probabilities at the tokens of answers; yet
transformers' last layer makes a state of every token. What the others need of it is their keys
and values: no query, no output of attention, no feed-forward network. A layer that is built as
usual is narrowed from outside, by hooks on its parts:

    h [S, d] all tokens, h_a [A, d] those that are read
    h_a + O attend(q of norm(h) at A, k of norm(h), v of norm(h)),  then all the rest on [A, d]

Which module is which is recorded in one forward pass, not known from a list; `models.probe`
compares the numbers before it is trusted: a body that gives its states the shape of its input,
as GPT-2's does, is left as it is. Without a `tail` among its arguments a layer does all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tandem.batching.attention_plan import PlanTail

HIDDEN_STATES = "hidden_states"
WHOLE = "whole_states"
"""The argument in which all states pass a layer; recomputed layers get it again."""
NARROWED = "_tandem_narrowed"
"""Set on a layer that has the hooks; a copy of the layer has both."""


@dataclass(eq=False)
class LastLayer:
    """The parts of a layer: h -> h + output(attend(norm(h))) -> feed-forward.

    Attributes:
        layer: reads and returns hidden states [1, S, d].
        attention: the module that asks for attention, within the layer.
        norm: what the layer puts before attention, or None if it reads h itself.
        output: the projection at the end of attention.
    """

    layer: nn.Module
    attention: nn.Module
    norm: nn.Module | None
    output: nn.Module
    _asking: Tensor | None = None
    _hooks: list[RemovableHandle] = field(default_factory=list)

    def narrow(self) -> None:
        """Let the layer obey a `tail` among its arguments, once for all who read the model."""
        if getattr(self.layer, NARROWED, False):
            return
        setattr(self.layer, NARROWED, True)
        self._hooks = [
            self.layer.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.attention.register_forward_pre_hook(self._attend, with_kwargs=True),
            self.output.register_forward_pre_hook(self._leave),
        ]

    def widen(self) -> None:
        """Take off the hooks that `narrow` put on."""
        if self._hooks:
            delattr(self.layer, NARROWED)
        while self._hooks:
            self._hooks.pop().remove()

    def _enter(self, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Go on with the read tokens' states; hand all of them to attention."""
        tail: PlanTail | None = kwargs.get("tail")
        if tail is None:
            return None
        whole: Tensor = args[0] if args else kwargs[HIDDEN_STATES]
        return _with_hidden(args, {**kwargs, WHOLE: whole}, whole.index_select(1, tail.asking))

    def _attend(self, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Attend from the read tokens to all."""
        tail: PlanTail | None = kwargs.get("tail")
        if tail is None:
            return None
        self._asking = tail.asking
        whole: Tensor = kwargs[WHOLE]
        whole = whole if self.norm is None else self.norm(whole)
        return _with_hidden(args, {**kwargs, WHOLE: None, "segments": tail.plan}, whole)

    def _leave(self, _: nn.Module, args: Any) -> tuple[Any, ...] | None:
        """Leave attention with the read tokens alone."""
        asking, self._asking = self._asking, None
        return None if asking is None else (args[0].index_select(1, asking), *args[1:])


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One recorded call of a submodule: its first input and output, and if it got the plan."""

    module: nn.Module
    read: Any
    made: Any
    told: bool


def find_last_layer(body: nn.Module, forward: Callable[[], Any]) -> LastLayer | None:
    """Find the parts of a body's last layer while `forward` runs; None if it is built otherwise.

    Args:
        body: the transformer.
        forward: runs the body once on a plan.
    """
    calls: list[_Call] = []

    def seen(module: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
        read = args[0] if args else kwargs.get(HIDDEN_STATES)
        made = made[0] if isinstance(made, tuple) else made
        calls.append(_Call(module, read, made, kwargs.get("segments") is not None))

    hooks = [m.register_forward_hook(seen, with_kwargs=True) for m in body.modules()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return _parts(calls)


def _parts(calls: list[_Call]) -> LastLayer | None:
    """Identify a layer's parts: attention receives the plan, norms feed it and the feed-forward."""
    told = {c.module: c for c in calls if c.told}
    asking = [m for m in told if not any(part in told for part in m.modules() if part is not m)]
    layers = [m for m in told if asking and asking[-1] in m.children()]
    if not layers:
        return None
    layer, attention = told[layers[-1]], told[asking[-1]]
    within = [c for c in calls if c.module in set(attention.module.children())]
    before = [c for c in calls if c.module in set(layer.module.children())]
    outputs = [c.module for c in within if c.made is attention.made]
    norms = [c.module for c in before if c.read is layer.read and c.made is attention.read]
    if not outputs or not (norms or attention.read is layer.read):
        return None
    return LastLayer(layer.module, attention.module, norms[0] if norms else None, outputs[0])


def _with_hidden(args: Any, kwargs: Any, hidden: Tensor) -> tuple[Any, Any]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, HIDDEN_STATES: hidden})
