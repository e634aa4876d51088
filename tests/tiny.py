"""Tiny random models of several architectures, and random groups for them to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn

from tandem.batching.batch import Batch
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.training.loop import LossFunction, sum_terms, term_weights
from worlds import CHARACTERS, letters

VOCABULARY = 41
WINDOW = 6
"""Shorter than most prompts here, so that a window that is not applied to positions shows."""

_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
_GEMMA = {**_LLAMA, "head_dim": 8, "sliding_window": WINDOW}

CONFIGS: dict[str, Any] = {
    "llama": lambda: hf.LlamaConfig(**_LLAMA),
    "llama-tied": lambda: hf.LlamaConfig(**_LLAMA, tie_word_embeddings=True),
    "qwen2": lambda: hf.Qwen2Config(**_LLAMA),
    "qwen2-window": lambda: hf.Qwen2Config(
        **_LLAMA, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: hf.Qwen3Config(**_LLAMA, head_dim=16),
    "gpt2": lambda: hf.GPT2Config(
        **_GPT, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2
    ),
    "neox": lambda: hf.GPTNeoXConfig(
        **{**_LLAMA, "num_key_value_heads": None}, rotary_pct=0.5
    ),
    "mistral": lambda: hf.MistralConfig(**_LLAMA, sliding_window=WINDOW),
    "gemma2": lambda: hf.Gemma2Config(
        **_GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=8
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **_GEMMA, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8
    ),
    "granite": lambda: hf.GraniteConfig(**_LLAMA, logits_scaling=2.0, residual_multiplier=0.5),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, pad_token_id=0
    ),
}  # fmt: skip
SHARED = [name for name in CONFIGS if name != "mamba"]


def lm(kind: str = "llama", seed: int = 0, auto: Any = hf.AutoModelForCausalLM, **more: Any) -> Any:
    """Return a random model of this architecture, the same for the same seed."""
    config = CONFIGS[kind]()
    for name, value in more.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for parameter in model.parameters():  # biases and norms away from 0 and 1
            if parameter.ndim < 2:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def folder(path: Path, kind: str = "llama", seed: int = 0, **more: Any) -> Path:
    """Write a random model and a tokenizer of one token a letter."""
    lm(kind, seed, **more).save_pretrained(path)
    letters(VOCABULARY).save_pretrained(path)
    return path


def tokens(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return n random tokens that are not special."""
    return rng.integers(3, VOCABULARY, n).astype(np.int32)


def group(name: str, rng: np.random.Generator, prompt: int, lengths: Sequence[int]) -> Group:
    """Return a group of random tokens with these lengths, each completion ended by EOS."""
    answers = [np.append(tokens(rng, n - 1), 2).astype(np.int32) for n in lengths]
    question = tokens(rng, prompt)
    asked = Prompt(name, spelled(question), tokens=question)
    return Group(asked, tuple(Completion(spelled(a[:-1]), a) for a in answers))


def spelled(ids: np.ndarray) -> str:
    """Return the letters of the tokenizer that `folder` writes."""
    return "".join(CHARACTERS[int(i) - 3] for i in ids)


def labelled(original: Group, rng: np.random.Generator) -> Group:
    """Add soft preferences between neighbours, scores of 0 and 1, and log-probabilities."""
    n = len(original)
    votes = tuple(Preference(i, i + 1, float(rng.uniform())) for i in range(n - 1))
    completions = tuple(
        Completion(c.text, c.tokens, c.author, rng.normal(-3, 1, len(c.tokens)), c.stopped,
                   c.mask, c.weight)
        for c in original.completions
    )  # fmt: skip
    scores = rng.integers(0, 2, n).astype(np.float64)
    return Group(original.prompt, completions, scores, votes)


def gradient(module: nn.Module, micro: list[Batch], loss: LossFunction) -> Tensor:
    """Return all parameters' gradients of a step, end to end, as the loop sums them."""
    module.zero_grad()
    weights = term_weights(loss, micro, "cpu")
    for batch in micro:
        sum_terms(loss(module(batch.tokens), batch), weights).backward()
    return torch.cat(
        [p.grad.flatten() for p in module.parameters() if p.requires_grad and p.grad is not None]
    )


def close(a: Tensor, b: Tensor, bound: float = 1e-5) -> None:
    """Assert that two gradients agree to a share of their norm."""
    assert b.norm() > 0
    off = ((a - b).norm() / b.norm()).item()
    assert off <= bound, f"off by {off:.2e} of the norm"
