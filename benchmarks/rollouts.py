"""GRPO whose samples come from vLLM or Ray, beside the same from our engine.

    TANDEM_VLLM=ENV/bin/python python benchmarks/rollouts.py [--model FOLDER] [--steps 20]
    python benchmarks/rollouts.py --engines ray ray-ahead

Weights are sent at each step. With `-ahead` a round is drawn while the one before is trained on.
The reward is the share of an answer's letters that stand in the first half of the alphabet, so
that anybody's model can climb without a judge. Without `--model` the policy is a random Llama of
0.8 M parameters (4 layers, width 128) that writes single letters. Printed and written as JSON for
each engine: reward, KL of the sampler from the trainer in nats a token (0 by construction for our
own engine), the largest share of weights that were cut, and seconds of sampling (ahead: of waiting
for samples) and of training at each step. Starting the server is not in them. Then the reward of
the best of 16 answers of the untrained policy, with an interval over prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tandem.data.groups import Groups
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.open_engine import open_engine
from tandem.machine import Lora, Machine
from tandem.methods import grpo
from tandem.models.opening import open_policy
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.statistics import mean_of
from tandem.training.optim import Optim

RESULTS = Path(__file__).with_name("results")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTIONS = (
    "What is the sea like?", "Name a fruit.", "Why do we sleep?", "What is a bridge for?",
    "Describe a dog.", "What does a baker do?", "Name a colour.", "How is bread made?",
)  # fmt: skip


class EarlyLetters:
    """Scores an answer by its share of letters in the first half of the alphabet."""

    name = "early-letters"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            said = [[x for x in c.text.lower() if x.isalpha()] for c in group.completions]
            scores = [sum(x < "n" for x in s) / max(1, len(s)) for s in said]
            yield replace(group, scores=np.array(scores))


class Rounds:
    """Keeps and prints the numbers of each round."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []

    def log(self, kind: str, **numbers: Any) -> None:
        if kind == "round":
            self.rounds.append(numbers)
            print({k: v for k, v in numbers.items() if k in SHOWN}, flush=True)

    def progress(self, done: int, total: int | None, unit: str, **numbers: Any) -> None:
        pass


SHOWN = ("round", "proxy", "sample_s", "train_s", "mismatch_nats", "mismatch_capped")


def random_model(folder: Path) -> Path:
    """Write the random Llama and its tokenizer of one token a letter."""
    torch.manual_seed(0)
    vocabulary = {t: i for i, t in enumerate(["<pad>", "<bos>", "<eos>", *LETTERS])}
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


def asked_prompts(tokenizer: Any) -> Groups:
    """Eight questions for a chat model, or eight rows of letters."""
    asked = QUESTIONS if tokenizer.chat_template else [LETTERS[i : i + 6] for i in range(8)]
    groups = (Group(Prompt(f"p{i}", q)) for i, q in enumerate(asked))
    return Groups.of(tokenise(groups, tokenizer))


def fitted(
    way: str, seed: int, model: Path, args: argparse.Namespace, place: Path
) -> dict[str, Any]:
    """Fit by GRPO with an engine; return what is compared."""
    engine: Any = way.removesuffix("-ahead")
    prompts = asked_prompts(load_tokenizer(model))
    cfg = grpo.GRPOConfig(
        prompts=args.prompts, n=args.n, rounds=args.steps, minibatch=args.prompts, beta=0.0,
        optim=Optim(lr=args.lr, schedule="constant", warmup=0.0),
    )  # fmt: skip
    lora = Lora(rank=args.lora, alpha=2.0 * args.lora) if args.lora else None
    machine = Machine(
        device="cpu", precision=args.precision, engine=engine, lora=lora, log_every=1,
        rollouts_ahead=way.endswith("-ahead"),
    )  # fmt: skip
    heard = Rounds()
    ctx = StageContext.at(place / f"{way}-{seed}", seed=Seed(seed), events=heard, machine=machine)
    sampling = Sampling(max_tokens=args.tokens)
    grpo.fit(Checkpoint(model), prompts, EarlyLetters(), cfg, sampling=sampling, ctx=ctx)
    rounds = heard.rounds
    seconds, rewards = [r["sample_s"] for r in rounds], [r["proxy"] for r in rounds]
    return {
        "reward": [round(r, 4) for r in rewards],
        "reward_last_quarter": round(statistics.fmean(rewards[-(len(rewards) // 4) :]), 4),
        "nats_per_token": [r.get("mismatch_nats", 0.0) for r in rounds],
        "capped": max(r.get("mismatch_capped", 0.0) for r in rounds),
        "sample_s": seconds,
        "sample_s_median": round(statistics.median(seconds), 4),
        "train_s_median": round(statistics.median(r["train_s"] for r in rounds), 4),
        "round_s_median": round(
            statistics.median(r["sample_s"] + r["score_s"] + r["train_s"] for r in rounds), 4
        ),
        "tokens_per_s_median": statistics.median(r["sample_tokens_per_s"] for r in rounds),
    }  # fmt: skip


def best_of(way: str, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Draw 16 answers to each prompt; return the reward of the best, with its interval."""
    kind: Any = way.removesuffix("-ahead")
    machine = Machine(device="cpu", precision=args.precision, engine=kind)
    tokenizer = load_tokenizer(model)
    policy = open_policy(model, machine)
    engine = open_engine(policy, tokenizer, machine)
    engine.load(policy.lm)
    sampling, prompts = Sampling(max_tokens=args.tokens), asked_prompts(tokenizer)
    start = time.monotonic()
    drawn = list(engine.sample(prompts, 16, sampling, Seed(7)))
    seconds = time.monotonic() - start
    scores = np.array([g.scores for g in EarlyLetters()(drawn)])
    tokens = sum(len(c.tokens) for g in drawn for c in g.completions)
    found: dict[str, Any] = {"per_prompt": np.round(scores.max(1), 4).tolist()}
    for name, values in (("mean", scores.mean(1)), ("best", scores.max(1))):
        e = mean_of(values)
        found[name] = [round(x, 4) for x in (e.mean, e.low, e.high)]
    return found | {"tokens_per_s": round(tokens / seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a model's folder; without it a random one")
    ways = [f"{engine}{ahead}" for engine in ("torch", "vllm", "ray") for ahead in ("", "-ahead")]
    parser.add_argument("--engines", nargs="+", choices=ways, default=["torch", "vllm"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=8, help="a step")
    parser.add_argument("--n", type=int, default=8, help="answers to a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="of the longest answer")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--lora", type=int, default=0, help="rank of adapters; 0 trains all weights"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5])
    parser.add_argument("--out", type=Path, default=RESULTS / f"rollouts-{date.today()}.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    given = {k: str(v) for k, v in vars(args).items() if k not in ("out", "model", "seeds")}
    found: dict[str, Any] = {
        "date": str(date.today()),
        "settings": given | {"model": args.model.name if args.model else "random Llama, 0.8 M"},
        "machine": {"processor": platform.processor(), "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "load_at_start": os.getloadavg(),
        "engines": {way: {} for way in args.engines},
    }
    if args.out.exists() and (kept := json.loads(args.out.read_text()))["settings"] == given | {
        "model": found["settings"]["model"]
    }:
        found = kept
    with tempfile.TemporaryDirectory() as place:
        model = args.model or random_model(Path(place) / "model")
        jobs = [(way, f"seed {seed}") for seed in args.seeds for way in args.engines]
        for way, part in [*jobs, *((way, "best of 16") for way in args.engines)]:
            done = found["engines"][way]
            if part in done:
                continue
            if part == "best of 16":
                done[part] = best_of(way, model, args)
            else:
                done[part] = fitted(way, int(part.removeprefix("seed ")), model, args, Path(place))
            found |= {"load_at_end": os.getloadavg(), "difference": differences(found["engines"])}
            args.out.write_text(json.dumps(found, indent=1) + "\n")
            print(way, part, json.dumps(done[part]), flush=True)
    print("reward over the last quarter, less that of the first engine:", found["difference"])


def differences(engines: dict[str, Any]) -> dict[str, Any]:
    """Each engine's reward over the last quarter less the first one's, with its interval."""
    first, *others = engines
    found: dict[str, Any] = {}
    for way in others:
        both = [k for k in engines[first] if k.startswith("seed") and k in engines[way]]
        last = "reward_last_quarter"
        rewards = [engines[way][k][last] - engines[first][k][last] for k in both]
        if len(rewards) > 1:
            e = mean_of(rewards)
            found[way] = {"seeds": len(rewards), "mean": e.mean, "low": e.low, "high": e.high}
    return found


if __name__ == "__main__":
    main()
