"""Make the micro world's base model: `python -m tandem.tasks.micro.base`.

A stock Llama of about 0.9 M parameters learns every skill at once, from demonstrations of mixed
quality, with the loss on the replies only. Progress is printed; a killed run resumes from its
checkpoint when the same command is given again.
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

from tandem.tasks.micro.lessons import SHARES, encode, lessons
from tandem.tasks.micro.tokenizer import CONTEXT, tokenizer

ASSETS = Path(__file__).parent / "assets"
POOL = 16
Row = tuple[str, list[int], int]


@dataclass(frozen=True)
class Recipe:
    """How the base model is trained; recorded beside the weights."""

    steps: int = 8500
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warm_up: int = 200
    decay: float = 0.2353
    width: int = 128
    layers: int = 4
    heads: int = 4
    seed: int = 1
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))


def blank(recipe: Recipe, vocabulary: int, pad: int, eos: int) -> LlamaForCausalLM:
    """A freshly initialised model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        attn_implementation="eager",  # on a CPU its backward is several times faster than fused
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
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, head: int, distance: int, sharpness: float = 6.0) -> None:
    """Start a head of the first layer at attending `distance` tokens back, by its biases.

    Binding a value to its person needs such heads before anything can be learned from them; from
    random weights they take longer to appear than all the rest of the training.
    """
    size = model.config.hidden_size // model.config.num_attention_heads
    half = size // 2
    attention = model.model.layers[0].self_attn
    rates = model.model.rotary_emb.inv_freq
    loud = sharpness * (rates > 0.1)
    here = slice(head * size, head * size + half)
    there = slice(head * size + half, (head + 1) * size)
    attention.k_proj.bias[here], attention.k_proj.bias[there] = loud, 0.0
    turn = -distance * rates
    attention.q_proj.bias[here] = loud * torch.cos(turn)
    attention.q_proj.bias[there] = loud * torch.sin(turn)


def batches(recipe: Recipe, ids: dict[str, int], first: int) -> Iterator[list[Row]]:
    """Batches from step `first` on; rows of a batch have like lengths, so little is padding."""
    pool = first // POOL
    while True:
        rng = np.random.default_rng([recipe.seed, pool])
        rows = [
            (skill, *encode(ids, taught)) for skill, taught in lessons(rng, POOL * recipe.batch)
        ]
        rows.sort(key=lambda row: len(row[1]))
        order = rng.permutation(POOL)
        for k in order[first - pool * POOL :] if pool == first // POOL else order:
            yield rows[int(k) * recipe.batch : (int(k) + 1) * recipe.batch]
        pool += 1


def losses(model: LlamaForCausalLM, rows: list[Row], pad: int) -> tuple[torch.Tensor, list[str]]:
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


def rate(recipe: Recipe, step: int) -> float:
    """The learning rate: warm-up, plateau, then linear decay to nothing."""
    left = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up, left)


def train(recipe: Recipe, scratch: Path, *, save_every: int = 250) -> LlamaForCausalLM:
    """Train, or go on training from the checkpoint in `scratch`."""
    words = tokenizer()
    ids, pad = words.get_vocab(), int(words.pad_token_id)
    model = blank(recipe, len(ids), pad, int(words.eos_token_id)).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, (0.9, 0.98), weight_decay=recipe.weight_decay,
        fused=True,
    )  # fmt: skip
    step, kept = 0, scratch / "checkpoint.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    started, seen = time.monotonic(), {skill: [0.0, 0] for skill in recipe.shares}
    for rows in batches(recipe, ids, step):
        if step >= recipe.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step)
        per_token, skills = losses(model, rows, pad)
        per_token.mean().backward()
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
        if step % save_every == 0 or step == recipe.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, kept.with_suffix(".part"))
            kept.with_suffix(".part").replace(kept)
    return model.eval()


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a stock Hugging Face folder: weights, config, tokenizer and generation settings."""
    words = tokenizer()
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


def record(folder: Path, recipe: Any, gates: dict[str, Any]) -> None:
    """Write `made.json`: settings, seed, hash of the weights, and the gates' numbers."""
    made = {"recipe": asdict(recipe), "sha256": weights_hash(folder), "gates": gates}
    (folder / "made.json").write_text(json.dumps(made, indent=2) + "\n")


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "base")
    parser.add_argument("--scratch", type=Path, default=Path("micro-base"))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    told.scratch.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(steps=told.steps)
    save(train(recipe, told.scratch), told.out)
    record(told.out, recipe, {})
    print(f"saved {told.out}, sha256 {weights_hash(told.out)}")


if __name__ == "__main__":
    main()
