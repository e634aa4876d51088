"""Make the entailment classifier of SPG: `python -m tandem.tasks.micro.entailment`.

Premise and hypothesis are a prompt followed by an answer each. What an answer claims is known, so
the labels are programmatic: a premise entails a hypothesis that claims nothing beyond it,
contradicts one that claims another value for the same slot, and is neutral to the rest. The prompt
is common ground, not evidence: two answers are judged by what they say themselves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from tokenizers import processors
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from tandem.tasks.micro import arithmetic, dialogue, posts
from tandem.tasks.micro.base import ASSETS, record, weights_hash
from tandem.tasks.micro.lessons import training_post, training_problem, training_request
from tandem.tasks.micro.posts import Meta, pick
from tandem.tasks.micro.splits import SKILLS, rendered
from tandem.tasks.micro.tokenizer import tokenizer
from tandem.tasks.micro.truth import answer, claims

LABELS = ("entailment", "neutral", "contradiction")
Claims = dict[str, set[str]]
Example = tuple[str, str, int]


@dataclass(frozen=True)
class Recipe:
    """How the classifier is trained; recorded beside the weights."""

    steps: int = 5000
    batch: int = 32
    learning_rate: float = 1e-3
    seed: int = 1


def claimed(meta: Meta, text: str) -> Claims:
    """What an answer claims, by slot."""
    if meta["skill"] == "summaries":
        made: Claims = {}
        for name, kind, value in claims(text)[0]:
            made.setdefault(f"{name} {kind}", set()).add(value)
        return made
    if meta["skill"] == "arithmetic":
        return {"answer": {answer(text)}}
    told = dialogue.TOLD.search(text)
    if told is None:
        return {"helps": {"no"}}
    slots = ("tool", "place", "step", "thing")
    return {"helps": {"yes"}} | {s: {v} for s, v in zip(slots, told.groups(), strict=True)}


def label(premise: Claims, hypothesis: Claims) -> int:
    """0 entailment, 1 neutral, 2 contradiction."""
    if all(values <= premise.get(slot, set()) for slot, values in hypothesis.items()):
        return 0
    clash = any(
        slot in premise and not values <= premise[slot] for slot, values in hypothesis.items()
    )
    return 2 if clash else 1


def examples(rng: Generator, *, held_out: bool = False) -> Iterator[Example]:
    """Premise, hypothesis and label, the three labels in equal numbers where a skill allows it."""
    wanted = 0
    while True:
        skill = ("summaries", "summaries", "summaries", "dialogue", "arithmetic")[rng.integers(5)]
        meta = _prompt(rng, skill, held_out=held_out)
        first = _answer(rng, meta)
        second, found = first, -1
        for _ in range(12):
            second = _answer(rng, meta) if rng.random() < 0.5 else _varied(rng, meta, first)
            found = label(claimed(meta, first), claimed(meta, second))
            if found == wanted or (wanted == 1 and skill != "summaries"):
                break
        wanted = (wanted + 1) % 3
        asked = SKILLS[skill].ask(meta)
        x = rendered(asked) if rng.random() < 0.7 else asked + " "
        yield x + first, x + second, found


def _prompt(rng: Generator, skill: str, *, held_out: bool) -> Meta:
    if held_out:
        while True:
            meta = SKILLS[skill].draw(rng, int(rng.integers(3)))
            if SKILLS[skill].held_out(meta):
                return meta
    if skill == "summaries":
        return training_post(rng)
    if skill == "dialogue":
        return training_request(rng)
    return training_problem(rng, pick(rng, arithmetic.STRATA))


def _answer(rng: Generator, meta: Meta) -> str:
    if meta["skill"] == "summaries":
        return posts.write(meta, rng, posts.mixed(rng))
    if meta["skill"] == "dialogue":
        return dialogue.write(meta, rng, dialogue.mixed(rng))
    return arithmetic.write(meta, rng, slips=0.25)


def _varied(rng: Generator, meta: Meta, text: str) -> str:
    """The same claims in other words, sometimes with one added, dropped or changed."""
    if meta["skill"] != "summaries":
        filler = " ".join(pick(rng, posts.FILLER) for _ in range(int(rng.integers(3))))
        return f"{filler} {text}".strip() if meta["skill"] == "dialogue" else text
    made = claims(text)[0]
    made = [made[i] for i in rng.permutation(len(made))]
    change = rng.integers(4)
    if change == 1 and len(made) > 1:
        made.pop()
    elif change == 2:
        made.append(posts.stray(meta, rng))
    elif change == 3 and made:
        name, kind, _ = made[0]
        made[0] = (name, kind, pick(rng, posts.VALUES[kind][posts.MAIN]))
    filler = tuple(pick(rng, posts.FILLER) for _ in range(int(rng.integers(3))))
    return posts.render(made or [posts.stray(meta, rng)], filler)


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """The world's tokenizer, taught to end both texts of a pair."""
    words: Any = tokenizer()
    words.chat_template = None
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>",
        pair="$A </s> $B </s>",
        special_tokens=[("</s>", int(words.eos_token_id))],
    )
    return words


def start(base: Path) -> LlamaForSequenceClassification:
    """A classifier that starts from the base model, which can copy and compare already."""
    torch.manual_seed(Recipe.seed)
    return LlamaForSequenceClassification.from_pretrained(
        base,
        attn_implementation="eager",
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )


def logits(
    model: LlamaForSequenceClassification, words: PreTrainedTokenizerFast, rows: list[Example]
) -> torch.Tensor:
    """Logits of a batch."""
    inputs = words(
        [a for a, _, _ in rows], [b for _, b, _ in rows], return_tensors="pt", padding=True
    )
    with torch.autocast("cpu", torch.bfloat16):
        return model(**inputs).logits.float()


def accuracy(
    model: LlamaForSequenceClassification, words: PreTrainedTokenizerFast, n: int, seed: int
) -> dict[str, float]:
    """Accuracy on held-out posts, overall and by label."""
    stream = examples(np.random.default_rng(seed), held_out=True)
    rows = [next(stream) for _ in range(n)]
    with torch.inference_mode():
        guesses = torch.cat([logits(model, words, rows[i : i + 64]) for i in range(0, n, 64)])
    right = guesses.argmax(-1).numpy() == np.array([row[2] for row in rows])
    told = {"accuracy": float(right.mean())}
    for i, name in enumerate(LABELS):
        told[name] = float(right[[row[2] == i for row in rows]].mean())
    return {name: round(value, 4) for name, value in told.items()}


def train(
    recipe: Recipe, base: Path
) -> tuple[LlamaForSequenceClassification, PreTrainedTokenizerFast]:
    """Train the classifier, printing progress."""
    words = pair_tokenizer()
    model = start(base).train()
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, fused=True)
    stream, started = examples(np.random.default_rng(recipe.seed)), time.monotonic()
    for step in range(recipe.steps):
        rows = [next(stream) for _ in range(recipe.batch)]
        share = min(1.0, (step + 1) / 100, (recipe.steps - step) / (0.5 * recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * share
        target = torch.tensor([row[2] for row in rows])
        loss = torch.nn.functional.cross_entropy(logits(model, words, rows), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            model.eval()
            told = accuracy(model, words, 192, 2)["accuracy"]
            model.train()
            passed = time.monotonic() - started
            print(
                f"{step + 1:6d}  loss {loss:.3f}  accuracy {told:.3f}  {passed:.0f} s", flush=True
            )
    return model.eval(), words


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "entailment")
    parser.add_argument("--base", type=Path, default=ASSETS / "base")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    recipe = Recipe(steps=told.steps)
    model, words = train(recipe, told.base)
    model.save_pretrained(told.out)
    words.save_pretrained(told.out)
    gates = accuracy(model, words, 2000, 3)
    record(told.out, recipe, gates)
    print(gates, weights_hash(told.out))


if __name__ == "__main__":
    main()
