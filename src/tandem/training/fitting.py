"""How every fit begins and ends: a model is opened to be trained, and saved as a folder.

policy = open_trained(init, ctx)
batches = DatasetSource.of(data, policy, ctx, size=cfg.batch, epochs=cfg.epochs)
train(policy, batches, loss, cfg.optim, ctx)
return save_checkpoint(policy, init, ctx, name)
"""

from __future__ import annotations

from typing import TypeVar

import torch

from tandem.machine import process_rank
from tandem.models.opening import open_policy, open_scalar
from tandem.models.packed import ActorCritic, PackedModel
from tandem.models.quantised import is_quantised
from tandem.models.reopening import check_merged, check_reopened, read_probe
from tandem.models.saving import STORED, round_weights, save_model
from tandem.models.tokenizers import load_tokenizer
from tandem.models.unpacking import merge_products
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext

T = TypeVar("T")


def open_trained(init: Checkpoint, ctx: StageContext) -> PackedModel:
    """Open a policy to be trained on the stage's machine, with adapters where it asks for them.

    Args:
        init: the policy to start from.
        ctx: the stage; its seed draws the adapters.

    Raises:
        ModelError: the folder holds no causal language model.
    """
    return open_policy(init.path, ctx.machine, train=True, seed=ctx.seed.at("adapters"))


def open_trained_scalar(
    init: Checkpoint,
    ctx: StageContext,
    *,
    zero: bool = False,
    layers: int | None = None,
    dimensions: int = 0,
) -> PackedModel:
    """Open a model with a new scalar head to be trained: a reward or a preference model.

    Args:
        init: the policy whose weights it starts from.
        ctx: the stage; its seed draws the head, and the adapters where the machine asks for them.
        zero: start the head at zero instead.
        layers: keep only the first layers; None keeps all.
        dimensions: of an embedding that the head gives beside the score.

    Raises:
        ModelError: the folder holds no model, or has fewer layers.
    """
    return open_scalar(
        init.path,
        ctx.machine,
        fresh=ctx.seed.at("head"),
        zero=zero,
        layers=layers,
        dimensions=dimensions,
        train=True,
    )


def save_checkpoint(
    model: PackedModel | ActorCritic, init: Checkpoint, ctx: StageContext, name: str
) -> Checkpoint:
    """Write the trained model as a Hugging Face folder, with the tokenizer that it started with.

    Args:
        model: what was trained; of an actor-critic, the actor is saved alone.
        init: the checkpoint that it was opened from.
        ctx: the stage; the folder is its `out`.
        name: the model's name in tables and in `Completion.author`.

    Raises:
        ModelError: the folder, opened again, is not the model that was trained.
    """
    policy = model.actor if isinstance(model, ActorCritic) else model
    if process_rank() == 0:
        _save_checked(policy, init, ctx)
    return Checkpoint(ctx.out, name)


def _save_checked(policy: PackedModel, init: Checkpoint, ctx: StageContext) -> None:
    """Save a model, then open the folder again: what is saved is what was trained."""
    dtype = STORED[ctx.machine.save_dtype]
    trained = read_probe(policy)
    for text in save_model(policy.lm, load_tokenizer(init.path), ctx.out, dtype=dtype):
        ctx.events.log("mended", text=text)
    wanted, packed = trained, is_quantised(policy)
    if policy.lm is not policy.inner:
        if packed:
            merge_products(policy.lm)
        else:  # `save_model` has merged the adapters into `inner`
            policy.lm = policy.inner
        wanted = read_probe(policy)
        check_merged(trained, wanted, ctx.out)
    if dtype != torch.float32:
        if packed:
            merge_products(policy.lm, dtype)
        else:
            round_weights(policy.lm, dtype)
        exact, wanted = wanted, read_probe(policy)
        moved = float((exact - wanted).abs().mean())
        name = str(dtype).removeprefix("torch.")
        text = f"saved in {name}: rounding moves a token's log-probability by {moved:.2g} nats"
        ctx.events.log("rounded", text=text, moved=moved)
    check_reopened(policy, wanted, ctx.out, dtype)


def require_value(value: T | None) -> T:
    """Return what a loss cannot do without; None would be a mistake of the library.

    L = nll(require_value(out.logp), weight=batch.weight)
    """
    assert value is not None
    return value
