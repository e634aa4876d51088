"""Make the entailment classifier of SPG: `python -m tandem.tasks.micro.entailment`.

A small BERT reads a premise and a hypothesis, each a prompt followed by an answer. What an answer
claims is known, so the labels are programmatic: a premise entails a hypothesis that claims nothing
beyond it, contradicts one that claims another value for the same slot, and is neutral to the rest.
The prompt is common ground, not evidence, so the tokenizer drops it: two answers are judged by what
they say themselves.
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
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tandem.tasks.micro import arithmetic, dialogue, posts
from tandem.tasks.micro.base_model import weights_hash, write_record
from tandem.tasks.micro.lessons import training_post, training_problem, training_request
from tandem.tasks.micro.posts import Meta, pick_one
from tandem.tasks.micro.skills import SKILLS, rendered_question
from tandem.tasks.micro.tokenizer import CONTEXT
from tandem.tasks.micro.truth import answer, summary_claims
from tandem.tasks.micro.words import ASSETS, all_words

LABELS = ("entailment", "neutral", "contradiction")
CARD = """# Entailment classifier of the micro world

A stock `BertForSequenceClassification` for SPG (arXiv:2403.19279): do two answers say the same?

Input: a pair of texts, premise `x + y_i` and hypothesis `x + y_j`, where `x` is a prompt as the
chat template renders it (`Group.prompt.text`, ending in `<assistant> `) and `y` an answer. The
tokenizer drops everything up to `<assistant>`, so answers alone give the same verdict.
Output: `id2label` names entailment, neutral and contradiction.

Made by `python -m tandem.tasks.micro.entailment`; settings and measured accuracy: `made.json`.
"""
Claims = dict[str, set[str]]
Example = tuple[str, str, int]


@dataclass(frozen=True)
class EntailmentRecipe:
    """How the classifier is trained; recorded beside the weights."""

    steps: int = 1500
    batch: int = 64
    learning_rate: float = 1e-3
    width: int = 128
    layers: int = 3
    heads: int = 4
    seed: int = 1


def claims_by_slot(meta: Meta, text: str) -> Claims:
    """What an answer claims, by slot."""
    if meta["skill"] == "summaries":
        made: Claims = {}
        for name, kind, value in summary_claims(text)[0]:
            made.setdefault(f"{name} {kind}", set()).add(value)
        return made
    if meta["skill"] == "arithmetic":
        return {"answer": {answer(text)}}
    told = dialogue.TOLD.search(text)
    if told is None:
        return {"helps": {"no"}}
    slots = ("tool", "place", "step", "thing")
    return {"helps": {"yes"}} | {s: {v} for s, v in zip(slots, told.groups(), strict=True)}


def entailment_label(premise: Claims, hypothesis: Claims) -> int:
    """0 entailment, 1 neutral, 2 contradiction."""
    if all(values <= premise.get(slot, set()) for slot, values in hypothesis.items()):
        return 0
    clash = any(
        slot in premise and not values <= premise[slot] for slot, values in hypothesis.items()
    )
    return 2 if clash else 1


def entailment_examples(rng: Generator, *, held_out: bool = False) -> Iterator[Example]:
    """Premise, hypothesis and label, the three labels in equal numbers where a skill allows it."""
    wanted = 0
    while True:
        skill = ("summaries", "summaries", "summaries", "dialogue", "arithmetic")[rng.integers(5)]
        if wanted == 1:
            skill = "summaries"  # answers of the other skills agree or contradict
        meta = _prompt(rng, skill, held_out=held_out)
        first = _answer(rng, meta)
        second, found = first, -1
        for _ in range(12):
            second = _answer(rng, meta) if rng.random() < 0.5 else _varied(rng, meta, first)
            found = entailment_label(claims_by_slot(meta, first), claims_by_slot(meta, second))
            if found == wanted:
                break
        wanted = (wanted + 1) % 3
        x = rendered_question(SKILLS[skill].ask(meta)) if rng.random() < 0.5 else ""
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
    return training_problem(rng, pick_one(rng, arithmetic.STRATA))


def _answer(rng: Generator, meta: Meta) -> str:
    if meta["skill"] == "summaries":
        return posts.write_summary(meta, rng, posts.any_quality(rng))
    if meta["skill"] == "dialogue":
        return dialogue.write_reply(meta, rng, dialogue.any_manner(rng))
    return arithmetic.write_solution(meta, rng, slips=0.25)


def _varied(rng: Generator, meta: Meta, text: str) -> str:
    """The same claims in other words, sometimes with one added, dropped or changed."""
    if meta["skill"] != "summaries":
        filler = " ".join(pick_one(rng, posts.FILLER) for _ in range(int(rng.integers(3))))
        return f"{filler} {text}".strip() if meta["skill"] == "dialogue" else text
    made = summary_claims(text)[0]
    made = [made[i] for i in rng.permutation(len(made))]
    change = rng.integers(4)
    if change == 1 and len(made) > 1:
        made.pop()
    elif change == 2:
        made.append(posts.false_claim(meta, rng))
    elif change == 3 and made:
        name, kind, _ = made[0]
        made[0] = (name, kind, pick_one(rng, posts.VALUES[kind][posts.MAIN]))
    filler = tuple(pick_one(rng, posts.FILLER) for _ in range(int(rng.integers(3))))
    return posts.render_summary(made or [posts.false_claim(meta, rng)], filler)


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of pairs of summaries: it marks both texts and drops the prompts."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(all_words())}, "<unk>"))
    backend.normalizer = normalizers.Replace(Regex("^.*<assistant> *"), "")  # type: ignore
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore
    backend.post_processor = processors.TemplateProcessing(  # type: ignore
        single="</s>:0 $A:0 </s>:0",
        pair="</s>:0 $A:0 </s>:0 $B:1 </s>:1",
        special_tokens=[("</s>", backend.token_to_id("</s>"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def blank_encoder(
    recipe: EntailmentRecipe, words: PreTrainedTokenizerFast
) -> BertForSequenceClassification:
    """A freshly initialised encoder, whose first layer starts at attending to equal words."""
    torch.manual_seed(recipe.seed)
    config = BertConfig(
        attn_implementation="eager",  # type: ignore[call-arg]
        vocab_size=len(words),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 2,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        pad_token_id=int(words.pad_token_id),  # type: ignore[arg-type]
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    model = BertForSequenceClassification(config)
    layer: Any = model.bert.encoder.layer[0]
    attention = layer.attention.self
    with torch.no_grad():
        attention.query.weight.mul_(2.0)
        attention.key.weight.copy_(attention.query.weight)
    return model


def batch_logits(
    model: BertForSequenceClassification, words: PreTrainedTokenizerFast, rows: list[Example]
) -> torch.Tensor:
    """Logits of a batch."""
    inputs = words(
        [a for a, _, _ in rows], [b for _, b, _ in rows], return_tensors="pt", padding=True
    )
    with torch.autocast("cpu", torch.bfloat16):
        return model(**inputs).logits.float()


def held_out_accuracy(
    model: BertForSequenceClassification, words: PreTrainedTokenizerFast, n: int, seed: int
) -> dict[str, float]:
    """Accuracy on held-out prompts, overall and by label."""
    stream = entailment_examples(np.random.default_rng(seed), held_out=True)
    rows = [next(stream) for _ in range(n)]
    with torch.inference_mode():
        guesses = torch.cat([batch_logits(model, words, rows[i : i + 64]) for i in range(0, n, 64)])
    right = guesses.argmax(-1).numpy() == np.array([row[2] for row in rows])
    told = {"accuracy": float(right.mean())}
    for i, name in enumerate(LABELS):
        told[name] = float(right[[row[2] == i for row in rows]].mean())
    return {name: round(value, 4) for name, value in told.items()}


def train_classifier(
    recipe: EntailmentRecipe,
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    """Train the classifier, printing progress."""
    words = pair_tokenizer()
    model = blank_encoder(recipe, words).train()
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, fused=True)
    stream, started = entailment_examples(np.random.default_rng(recipe.seed)), time.monotonic()
    for step in range(recipe.steps):
        rows = [next(stream) for _ in range(recipe.batch)]
        share = min(1.0, (step + 1) / 100, (recipe.steps - step) / (0.5 * recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * share
        target = torch.tensor([row[2] for row in rows])
        loss = torch.nn.functional.cross_entropy(batch_logits(model, words, rows), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            model.eval()
            told = held_out_accuracy(model, words, 192, 2)["accuracy"]
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
    parser.add_argument("--steps", type=int, default=EntailmentRecipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    recipe = EntailmentRecipe(steps=told.steps)
    model, words = train_classifier(recipe)
    model.save_pretrained(told.out)
    words.save_pretrained(told.out)
    (told.out / "README.md").write_text(CARD)
    gates = held_out_accuracy(model, words, 2000, 3)
    write_record(told.out, recipe, gates)
    print(gates, weights_hash(told.out))


if __name__ == "__main__":
    main()
