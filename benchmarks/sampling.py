"""Tokens per second of our engine beside HF `generate`, in alternating runs on the same machine.

    python benchmarks/sampling.py [--quick] [--what W-group] [--threads N] [--out FILE]

W-group: a random Llama of 15.2 M parameters (6 layers, width 288, FFN 768, 6 heads, vocabulary
32,000, tied), 8 prompts of 200 tokens, 8 completions of exactly 48 tokens each, temperature 1.
micro: a random Llama of 0.9 M parameters (4 layers, width 128, vocabulary 512), 256 prompts of
about 60 tokens, one completion of 24 tokens each: the rollouts of PPO on the embedded world, where
neither forking nor early leaving can help. micro-group: 32 prompts with 8 completions each (GRPO).
Each side runs in fp32 and in bf16; the ratio is of the medians of each side's better dtype, by the
clock and by processor time (the fairer one where other jobs share the machine).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.rng import Seed

SHAPES = {
    "W-group": {"width": 288, "ffn": 768, "layers": 6, "heads": 6, "vocabulary": 32_000},
    "micro": {"width": 128, "ffn": 352, "layers": 4, "heads": 4, "vocabulary": 512},
}
SHAPES["micro-group"] = SHAPES["micro"]
LOADS = {
    "W-group": {"lengths": (200, 200), "prompts": 8, "n": 8, "tokens": 48},
    "micro": {"lengths": (50, 70), "prompts": 256, "n": 1, "tokens": 24},
    "micro-group": {"lengths": (50, 70), "prompts": 32, "n": 8, "tokens": 24},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def model(shape: dict[str, int]) -> LlamaForCausalLM:
    """Return a random model that never chooses to stop."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer without an end token."""
    words = {"<pad>": 0} | {f"w{i}": i for i in range(1, vocabulary)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>")


def prompts(load: dict, vocabulary: int) -> list[Group]:
    """Return random prompts, lengths uniform."""
    rng = np.random.default_rng(0)
    low, high = load["lengths"]
    lengths = rng.integers(low, high + 1, load["prompts"])
    tokens = [rng.integers(4, vocabulary, k).astype(np.int32) for k in lengths]
    return [Group(Prompt(str(i), "", tokens=t)) for i, t in enumerate(tokens)]


def ours(lm: LlamaForCausalLM, groups: list[Group], load: dict) -> Callable[[], int]:
    """Return a run of our engine that counts its tokens."""
    words = tokenizer(lm.config.vocab_size)
    engine = TorchEngine(lm, words, max_rows=256)
    sampling = Sampling(max_tokens=load["tokens"])

    def run() -> int:
        drawn = engine.sample(groups, load["n"], sampling, Seed(0))
        return sum(len(c.tokens) for g in drawn for c in g.completions)

    return run


def theirs(lm: LlamaForCausalLM, groups: list[Group], load: dict) -> Callable[[], int]:
    """Return a run of `generate` on the same prompts, padded at the left, text decoded too."""
    words = tokenizer(lm.config.vocab_size)
    longest = max(len(g.prompt.tokens) for g in groups)
    ids, seen = torch.zeros(2, len(groups), longest, dtype=torch.long)
    for row, g in enumerate(groups):
        ids[row, longest - len(g.prompt.tokens) :] = torch.from_numpy(g.prompt.tokens)
        seen[row, longest - len(g.prompt.tokens) :] = 1
    settings = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": load["tokens"],
        "num_return_sequences": load["n"],
        "pad_token_id": 0,
    }

    def run() -> int:
        with torch.inference_mode():
            out = lm.generate(input_ids=ids, attention_mask=seen, **settings)[:, longest:]
        words.batch_decode(out.tolist(), skip_special_tokens=True)
        return out.numel()

    return run


def measure(name: str, rounds: int) -> dict:
    """Alternate the sides `rounds` times; return tokens per second by both clocks."""
    load, shape = LOADS[name], SHAPES[name]
    groups = prompts(load, shape["vocabulary"])
    sides: dict[str, Callable[[], int]] = {}
    for label, dtype in DTYPES.items():
        lm = model(shape).to(dtype)
        sides[f"tandem {label}"] = ours(lm, groups, load)
        sides[f"generate {label}"] = theirs(lm, groups, load)
    clocks = {"by_clock": time.perf_counter, "by_processor": time.process_time}
    speeds: dict[str, dict[str, list[float]]] = {c: {s: [] for s in sides} for c in clocks}
    for _ in range(rounds + 1):  # the first is a warm-up
        for side, run in sides.items():
            start = {c: clock() for c, clock in clocks.items()}
            tokens = run()
            for c, clock in clocks.items():
                speeds[c][side].append(tokens / (clock() - start[c]))
    return {c: summary({side: s[1:] for side, s in of.items()}) for c, of in speeds.items()}


def summary(speeds: dict[str, list[float]]) -> dict:
    """Return medians, every run, and the ratio of each side's better dtype."""
    medians = {side: statistics.median(s) for side, s in speeds.items()}
    best = {
        k: max(v for s, v in medians.items() if s.startswith(k)) for k in ("tandem", "generate")
    }
    return {
        "ratio_of_best": round(best["tandem"] / best["generate"], 2),
        "tokens_per_second": {side: round(v) for side, v in medians.items()},
        "runs": {side: [round(v) for v in s] for side, s in speeds.items()},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--what", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    result = {
        "date": date.today().isoformat(),
        "threads": args.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    for name in args.what:
        result[name] = measured = measure(name, 3 if args.quick else 7)
        for clock, of in measured.items():
            print(f"{name} {clock}: ratio {of['ratio_of_best']}")
            for side, speed in of["tokens_per_second"].items():
                print(f"  {side:16s} {speed:7d} tokens/s   {of['runs'][side]}")
    results = Path(__file__).parent / "results"
    out = args.out or results / f"sampling-{result['date']}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
