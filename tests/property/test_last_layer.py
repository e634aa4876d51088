"""The last layer on the tokens that are read is the last layer, in value and in gradient."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tandem.batching.attention_plan import MULTIPLE
from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.packing import pack_groups
from tandem.machine import Lora, Machine
from tandem.models.loading import value_head
from tandem.models.opening import open_policy
from tandem.models.packed import ActorCritic, PackedModel
from tandem.models.probe import probe_layout
from tiny import SHARED, close, folder, gradient, group, labelled, lm

NARROWED = [kind for kind in SHARED if kind != "gpt2"]


def batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    shapes = [(17, (5, 9, 1, 12, 3)), (3, (14,)), (1, (2, 2)), (25, (8, 20, 110, 4))]
    return pack_groups([labelled(group(str(i), rng, p, n), rng) for i, (p, n) in enumerate(shapes)])


def everything(out: Outputs, of: Batch) -> dict[str, Terms]:
    """Read all that a policy with a value head has to say."""
    assert out.logp is not None
    assert out.value is not None
    parts = [out.logp.values, out.value.values.square()]
    if out.features is not None:
        parts.append(out.features.square().mean(1))
    units = torch.cat(parts)
    return {"all": Terms(units, torch.ones_like(units), {})}


def policy(kind: str) -> PackedModel:
    model = lm(kind)
    trunk = PackedModel(model, {"value": value_head(model)})
    torch.nn.init.normal_(trunk.heads["value"].weight, generator=torch.Generator().manual_seed(0))
    probe_layout(trunk)
    return trunk


def both(trunk: PackedModel, read: Any) -> tuple[Any, Any]:
    """Do it with the last layer narrowed and whole."""
    found = []
    for trunk.narrow in (True, False):
        found.append(read())
    return tuple(found)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", SHARED)
def test_the_probe_narrows_what_is_built_as_usual(kind: str):
    assert policy(kind).narrow is (kind in NARROWED)


@pytest.mark.parametrize("kind", NARROWED)
def test_every_output_and_every_gradient_is_the_same(kind: str):
    trunk, packed = policy(kind), batch()
    narrow, whole = both(trunk, lambda: trunk(packed.tokens, entropy=True, features=True))
    for name in ("logp", "value", "entropy"):
        close(getattr(narrow, name).values, getattr(whole, name).values, 2e-6)
    close(narrow.features, whole.features, 2e-6)
    close(*both(trunk, lambda: gradient(trunk, [packed], everything)), 1e-5)


@pytest.mark.parametrize("kind", ["llama", "neox", "mistral", "gemma2"])
def test_a_scalar_head_reads_ends_alone(kind: str):
    model = lm(kind, auto=hf.AutoModelForSequenceClassification, num_labels=1)
    trunk, packed = PackedModel(model), batch()
    probe_layout(trunk)
    seen: list[int] = []
    last = trunk.body.layers[-1]  # type: ignore[union-attr]
    last.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    close(*both(trunk, lambda: trunk(packed.tokens).score), 2e-6)
    assert seen == [MULTIPLE, packed.tokens.ids.shape[1]]

    def squares(out: Outputs, of: Batch) -> dict[str, Terms]:
        assert out.score is not None
        return {"all": Terms(out.score.square(), torch.ones_like(out.score), {})}

    close(*both(trunk, lambda: gradient(trunk, [packed], squares)), 1e-5)


def test_adapters_learn_the_same(tmp_path: Path):
    machine = Machine(device="cpu", precision="fp32", lora=Lora(rank=2))
    trunk = open_policy(folder(tmp_path / "lm"), machine, train=True)
    for name, parameter in trunk.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    assert trunk.narrow
    close(*both(trunk, lambda: slopes(trunk)), 1e-5)


def test_activations_that_are_recomputed_are_of_the_same_tokens(tmp_path: Path):
    where = folder(tmp_path / "lm")
    kept, made_again = (
        open_policy(where, Machine(device="cpu", precision="fp32", checkpointing=x), train=True)
        for x in (False, True)
    )
    assert made_again.narrow
    close(slopes(made_again), slopes(kept), 1e-6)


def slopes(trunk: PackedModel) -> torch.Tensor:
    """Read two packs, then differentiate: each has to keep its own tail."""
    trunk.zero_grad()
    values = [trunk(batch(seed).tokens).logp.values.square().sum() for seed in (0, 1)]
    torch.stack(values).sum().backward()
    return torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])


def test_two_trunks_of_one_model_and_a_copy_narrow_it_once():
    model = lm()
    first, second = PackedModel(model), PackedModel(model)
    probe_layout(first)
    probe_layout(second)
    third = PackedModel(copy.deepcopy(model))
    probe_layout(third)
    packed = batch()
    narrow, whole = both(first, lambda: first(packed.tokens).logp.values)
    for other in (second, third):
        assert other.narrow
        assert torch.equal(other(packed.tokens).logp.values, narrow)
    close(narrow, whole, 2e-6)


def test_a_critic_of_its_own_reads_where_it_is_asked():
    both_ = ActorCritic(policy("llama"), policy("qwen3"))
    out = both_(batch().tokens)
    for trunk in (both_.actor, both_.critic):
        assert trunk is not None
        trunk.narrow = False
    whole = both_(batch().tokens)
    close(out.value.values, whole.value.values, 2e-6)
    close(out.logp.values, whole.logp.values, 2e-6)


def test_a_layer_that_needs_all_its_tokens_is_left_whole(monkeypatch: pytest.MonkeyPatch):
    model = lm()
    layer = model.model.layers[-1]
    forward = type(layer).forward

    def placed(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Add to each token's state something of its position, after attention."""
        return forward(self, hidden_states, **kwargs) + kwargs["position_ids"][..., None] / 50

    monkeypatch.setattr(type(layer), "forward", placed)
    trunk = PackedModel(model)
    assert probe_layout(trunk) == "shared"
    assert not trunk.narrow
    assert not layer._forward_pre_hooks
    groups = [group("a", np.random.default_rng(0), 9, (4, 7))]
    with torch.no_grad():
        shared, rows = (
            trunk(pack_groups(groups, x).tokens).logp.values for x in ("shared", "rows")
        )
    close(shared, rows, 2e-6)
