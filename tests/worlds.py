"""Small worlds whose answers are known: models written by hand, saved as ordinary HF folders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tandem.engines import Sampling

# Fixture F2: vocabulary {a, b}, completions of exactly two tokens, no end to choose.
F2_FIRST = {"a": 0.6, "b": 0.4}
F2_AFTER = {"a": {"a": 0.7, "b": 0.3}, "b": {"a": 0.2, "b": 0.8}}
F2_REWARD = {"aa": 0.0, "ab": 1.0, "ba": 0.5, "bb": -1.0}
F2_LAW = {x + y: F2_FIRST[x] * F2_AFTER[x][y] for x in "ab" for y in "ab"}
F2_PAD, F2_BOS, F2_EOS, F2_A, F2_B = range(5)
IMPOSSIBLE = -50.0  # a log-probability of e-50: never drawn, and still a finite logit
STREAM = 8.0  # length of an embedding
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def f2_model(folder: Path, first: dict[str, float] | None = None, head_dim: int = 8) -> Path:
    """Write F2's reference as a one-layer Llama (width 16); return its folder.

    Tokens are pad 0, bos 1, eos 2, a 3, b 4; a prompt is [bos]. `first` replaces the law of the
    first token. Some engines want a `head_dim` of 32.
    """
    laws = {"<bos>": first or F2_FIRST, **F2_AFTER}
    return markov_model(folder, laws, f2_tokenizer(), head_dim=head_dim)


def f1_model(folder: Path) -> Path:
    """Write fixture F1's reference: after [bos] one of a, b, c, d, tokens 3 to 6."""
    law = dict(zip("abcd", (0.4, 0.3, 0.2, 0.1), strict=True))
    return markov_model(folder, {"<bos>": law}, letters(7))


def markov_model(
    folder: Path,
    laws: dict[str, dict[str, float]],
    tokenizer: PreTrainedTokenizerFast,
    positions: int = 64,
    head_dim: int = 8,
) -> Path:
    """Write a one-layer Llama (width 16) with these laws of the next token given the last.

    The embedding of token t is s = 8 times the t-th unit vector, attention and feed-forward add 0
    (their output matrices are 0, the others random, so training can use them), and RMS norm makes
    of it the unit vector times f = (1/16 + eps/s^2)^-1/2. The head's column t is then
    log p(. | t) / f, and the logits are the log-probabilities themselves. With s = 1 a few steps
    of Adam would turn the hidden state away, and impossible tokens would become possible. After
    tokens without a law anything may come.
    """
    vocab = tokenizer.get_vocab()
    size = len(vocab)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        pad_token_id=F2_PAD,
        bos_token_id=F2_BOS,
        eos_token_id=F2_EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = LlamaForCausalLM(config)
    table = torch.zeros(size, size)  # [next, last]
    for last, law in laws.items():
        table[:, vocab[last]] = IMPOSSIBLE
        for token, p in law.items():
            table[vocab[token], vocab[last]] = math.log(p)
    with torch.no_grad():
        lm.model.embed_tokens.weight.copy_(STREAM * torch.eye(size, 16))
        lm.model.layers[0].self_attn.o_proj.weight.zero_()
        lm.model.layers[0].mlp.down_proj.weight.zero_()
        lm.lm_head.weight.zero_()
        lm.lm_head.weight[:, :size] = table * math.sqrt(1 / 16 + config.rms_norm_eps / STREAM**2)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def f2_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; "ab" is [3, 4] and back."""
    return letters(5)


def letters(size: int) -> PreTrainedTokenizerFast:
    """One token a character: pad 0, bos 1, eos 2, then signs and letters up to `size` tokens."""
    vocab = {t: i for i, t in enumerate(["<pad>", "<bos>", "<eos>", *CHARACTERS[: size - 3]])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


SAMPLINGS = [
    Sampling(max_tokens=9),
    Sampling(temperature=0.7, max_tokens=9),
    Sampling(top_k=5, max_tokens=9),
    Sampling(temperature=1.3, top_p=0.8, max_tokens=9),
    Sampling(min_p=0.1, max_tokens=9),
    Sampling(temperature=0.9, top_k=20, top_p=0.9, min_p=0.02, max_tokens=9),
]


def truncated(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The law as the definitions say it, token by token, in float64."""
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    p = np.exp((logits[order] - logits[order[0]]) / sampling.temperature)
    p /= p.sum()
    before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
    keep = (before < sampling.top_p) & (p >= sampling.min_p * p[0])
    logp = np.full(len(logits), -np.inf)
    logp[order[keep]] = np.log(p[keep] / p[keep].sum())
    return logp
