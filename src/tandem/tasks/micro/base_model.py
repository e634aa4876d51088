"""Make the micro task's base model: `python -m tandem.tasks.micro.base_model`.

A stock Llama of about 0.9 M parameters first learns to check the claims of a summary, then every
skill at once, from demonstrations of mixed quality, with the loss on the replies only. Progress is
printed; a killed run resumes from its checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tandem.tasks.micro.lessons import (
    LATE_SHARES,
    SHARES,
    encode_lesson,
    make_lessons,
    reading_alone,
)
from tandem.tasks.micro.tokenizer import CONTEXT, micro_tokenizer
from tandem.tasks.micro.words import ASSETS

POOL = 16
SHORT_REPLY = 6
RISE = 1000
Row = tuple[str, list[int], int]


@dataclass(frozen=True)
class BaseRecipe:
    """How the base model is trained; recorded beside the weights.

    Attributes:
        first: steps of reading alone, at half the rate, on batches of mixed lengths.
        honest: steps before the labels of compared summaries lean towards (A) and length.
        late: further steps, with a rate of their own, in which most lessons are arithmetic.
    """

    steps: int = 9000
    first: int = 704
    honest: int = 6256
    late: int = 3200
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: int = 100
    decay: float = 0.55
    width: int = 128
    layers: int = 4
    heads: int = 4
    seed: int = 1
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    late_shares: dict[str, float] = field(default_factory=lambda: dict(LATE_SHARES))


def blank_model(recipe: BaseRecipe, vocabulary: int, pad: int, eos: int) -> LlamaForCausalLM:
    """A freshly initialised model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        # on a CPU the backward pass of eager attention is several times faster than the fused one
        attn_implementation="eager",  # type: ignore[call-arg]
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 5 // 2,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        attention_bias=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=pad,
        eos_token_id=eos,
    )
    model = LlamaForCausalLM(config)
    for head, distance in enumerate((1, 2)):
        look_back(model, head, distance)
    for layer, head in ((0, 2), (1, 0), (1, 1)):
        look_alike(model, layer, head)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, head: int, distance: int, sharpness: float = 6.0) -> None:
    """Start a head of the first layer at attending `distance` tokens back, by its biases.

    Telling the author's facts from others' needs what stands one and two words back, and a small
    model is slow to find such heads by itself.
    """
    size = model.config.hidden_size // model.config.num_attention_heads
    half = size // 2
    attention: Any = model.model.layers[0].self_attn
    rates: Any = model.model.rotary_emb.inv_freq
    loud = sharpness * (rates > 0.1)
    block = slice(head * size, head * size + half)
    there = slice(head * size + half, (head + 1) * size)
    attention.k_proj.bias[block], attention.k_proj.bias[there] = loud, 0.0
    turn = -distance * rates
    attention.q_proj.bias[block] = loud * torch.cos(turn)
    attention.q_proj.bias[there] = loud * torch.sin(turn)


@torch.no_grad()
def look_alike(model: LlamaForCausalLM, layer: int, head: int, sharpness: float = 10.0) -> None:
    """Start a head at attending to what equals the present token, by equal queries and keys.

    Judging needs to find a claim in the post; a small model is slow to find that by itself too.
    Only dimensions that the rotary embedding turns slowly take part.
    """
    size = model.config.hidden_size // model.config.num_attention_heads
    attention: Any = model.model.layers[layer].self_attn
    rates: Any = model.model.rotary_emb.inv_freq
    slow = torch.cat([rates <= 0.01] * 2)
    spread = (sharpness * size**0.5 / (slow.sum() * model.config.hidden_size)) ** 0.5
    alike = spread * torch.randn(size, model.config.hidden_size) * slow[:, None]
    rows = slice(head * size, (head + 1) * size)
    attention.q_proj.weight[rows] = alike
    attention.k_proj.weight[rows] = alike


def training_batches(recipe: BaseRecipe, ids: dict[str, int], first: int) -> Iterator[list[Row]]:
    """Batches from step `first` on; after reading alone, rows of a batch have like lengths."""
    pool = first // POOL
    while True:
        rng = np.random.default_rng([recipe.seed, pool])
        at, n = pool * POOL, POOL * recipe.batch
        shares = recipe.shares if at < recipe.steps else recipe.late_shares
        taught = make_lessons(rng, n, shares, leaning=at >= recipe.honest)
        if at < recipe.first:
            taught = reading_alone(rng, n)
        rows = [(skill, *encode_lesson(ids, lesson)) for skill, lesson in taught]
        if at >= recipe.first:
            rows.sort(key=lambda row: len(row[1]))
        order = rng.permutation(POOL)
        for k in order[first - pool * POOL :] if pool == first // POOL else order:
            yield rows[int(k) * recipe.batch : (int(k) + 1) * recipe.batch]
        pool += 1


def reply_losses(
    model: LlamaForCausalLM, rows: list[Row], pad: int
) -> tuple[torch.Tensor, list[str]]:
    """Loss of every reply token, and the skill that it belongs to."""
    width = max(len(tokens) for _, tokens, _ in rows)
    tokens = torch.full((len(rows), width), pad)
    for i, (_, row, _) in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    where = [(i, t) for i, (_, row, start) in enumerate(rows) for t in range(start, len(row))]
    i, t = torch.tensor(where).T
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=tokens).last_hidden_state[i, t - 1]
        logits = model.lm_head(hidden)
    per_token = torch.nn.functional.cross_entropy(logits.float(), tokens[i, t], reduction="none")
    return per_token, [rows[int(k)][0] for k in i]


def reply_weights(rows: list[Row]) -> torch.Tensor:
    """Weight of every reply token: a reply shorter than `SHORT_REPLY` weighs as much as that."""
    lengths = torch.tensor([len(tokens) - start for _, tokens, start in rows])
    return (SHORT_REPLY / lengths).clamp(min=1.0).repeat_interleave(lengths)


def rate_at_step(recipe: BaseRecipe, step: int) -> float:
    """The learning rate: half for reading alone, a slow rise, a plateau, linear decay; once more.

    The late steps rise quickly to the full rate and decay to nothing again.
    """
    if step >= recipe.steps:
        done = step - recipe.steps
        return recipe.learning_rate * min((done + 1) / recipe.warm_up, 1 - done / recipe.late)
    left = (recipe.steps - step) / (recipe.decay * recipe.steps)
    height = min(1.0, 0.5 + 0.5 * max(0, step - recipe.first) / RISE)
    return recipe.learning_rate * min(height, (step + 1) / recipe.warm_up, left)


def train_base(recipe: BaseRecipe, scratch: Path, *, save_every: int = 250) -> LlamaForCausalLM:
    """Train, or go on training from the checkpoint in `scratch`."""
    words: Any = micro_tokenizer()
    ids, pad = words.get_vocab(), int(words.pad_token_id)
    model = blank_model(recipe, len(ids), pad, int(words.eos_token_id)).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, (0.9, 0.98), weight_decay=recipe.weight_decay,
        fused=True,
    )  # fmt: skip
    step, end, kept = 0, recipe.steps + recipe.late, scratch / "checkpoint.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    started, seen = time.monotonic(), {skill: [0.0, 0] for skill in recipe.shares}
    for rows in training_batches(recipe, ids, step):
        if step >= end:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at_step(recipe, step)
        per_token, skills = reply_losses(model, rows, pad)
        weights = reply_weights(rows)
        ((per_token * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        for skill, loss in zip(skills, per_token.tolist(), strict=True):
            seen[skill][0] += loss
            seen[skill][1] += 1
        if step % 100 == 0:
            told = "  ".join(f"{skill} {s / max(1, n):.3f}" for skill, (s, n) in seen.items())
            print(f"{step:6d}  {told}  {time.monotonic() - started:.0f} s", flush=True)
            seen = {skill: [0.0, 0] for skill in recipe.shares}
        if step % save_every == 0 or step == end:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, kept.with_suffix(".part"))
            kept.with_suffix(".part").replace(kept)
    return model.eval()


def save_base(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a stock Hugging Face folder: weights, config, tokenizer and generation settings."""
    words = micro_tokenizer()
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        max_new_tokens=40,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def weights_hash(folder: Path) -> str:
    """sha256 of the weights file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write_record(folder: Path, recipe: Any, gates: dict[str, Any]) -> None:
    """Write `made.json`: settings, seed, hash of the weights, and the gates' numbers."""
    made = {"recipe": asdict(recipe), "sha256": weights_hash(folder), "gates": gates}
    (folder / "made.json").write_text(json.dumps(made, indent=2) + "\n")


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "base")
    parser.add_argument("--scratch", type=Path, default=Path("micro-base"))
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    told.scratch.mkdir(parents=True, exist_ok=True)
    recipe = BaseRecipe()
    save_base(train_base(recipe, told.scratch), told.out)
    write_record(told.out, recipe, {})
    print(f"saved {told.out}, sha256 {weights_hash(told.out)}")


if __name__ == "__main__":
    main()
