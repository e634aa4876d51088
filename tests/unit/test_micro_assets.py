"""The shipped models: stock folders that load without Tandem, and do what they were made for."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from tandem.data.record import Completion, Group
from tandem.errors import ModelError
from tandem.rng import Seed
from tandem.tasks import micro
from tandem.tasks.micro import Micro, feedback, lessons, posts
from tandem.tasks.micro.base_model import weights_hash
from tandem.tasks.micro.gates import Gate, best_of_truths, order_consistency, pair_accuracy
from tandem.tasks.micro.tokenizer import micro_tokenizer
from tandem.tasks.micro.truth import summary_claims
from tandem.tasks.micro.words import all_words

TASK = Micro("summaries")


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return micro_tokenizer()


def test_text_survives_the_tokenizer(words: PreTrainedTokenizerFast) -> None:
    for skill in ("summaries", "dialogue", "arithmetic"):
        for group in Micro(skill).demonstrations(50, Seed(0)):
            text = group.completions[0].text
            assert words.decode(words(text)["input_ids"]) == text
    assert words.pad_token_id != words.eos_token_id
    assert words.convert_tokens_to_ids("(A)") != words.unk_token_id
    assert len(words) == len(all_words())


def test_the_template_preserves_prefixes_and_ends_turns(words: PreTrainedTokenizerFast) -> None:
    turns = [
        feedback.user_turn("summarize ana : ana found kite ."),
        feedback.assistant_turn("ana found kite ."),
        feedback.user_turn("revise : please answer more brief ."),
        feedback.assistant_turn("found kite ."),
    ]
    render = words.apply_chat_template
    for n in range(1, len(turns)):
        shorter, longer = (render(turns[:k], tokenize=True, return_dict=False) for k in (n, n + 1))
        assert longer[: len(shorter)] == shorter
        if turns[n]["role"] == "assistant":
            asked = render(turns[:n], tokenize=True, return_dict=False, add_generation_prompt=True)
            assert longer[: len(asked)] == asked
            assert longer[-1] == words.eos_token_id


def test_lessons_are_encoded_as_the_template_renders(words: PreTrainedTokenizerFast) -> None:
    import numpy as np

    ids, rng = words.get_vocab(), np.random.default_rng(0)
    for _, lesson in lessons.make_lessons(rng, 100):
        tokens, start = lessons.encode_lesson(ids, lesson)
        turns = [*lesson.messages, feedback.assistant_turn(lesson.reply)]
        assert words.apply_chat_template(turns, tokenize=True, return_dict=False) == tokens
        asked = words.apply_chat_template(
            list(lesson.messages), tokenize=True, return_dict=False, add_generation_prompt=True
        )
        assert asked == tokens[:start]


def test_prompt_text_is_what_the_template_renders(words: PreTrainedTokenizerFast) -> None:
    for group in TASK.prompts("evaluation", 5, Seed(0)):
        rendered = words.apply_chat_template(
            list(group.prompt.messages or ()), tokenize=False, add_generation_prompt=True
        )
        assert rendered == group.prompt.text


def test_the_template_marks_what_the_assistant_says(words: PreTrainedTokenizerFast) -> None:
    turns = [feedback.user_turn("how ?"), feedback.assistant_turn("take a key .")]
    told = words.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [t for t, m in zip(told["input_ids"], told["assistant_masks"], strict=True) if m]
    assert words.decode(said) == "take a key . </s>"


def test_the_base_model_writes_summaries_of_unseen_posts() -> None:
    folder = TASK.model()
    model, words = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert json.loads((folder / "made.json").read_text())["sha256"] == weights_hash(folder)
    groups = TASK.prompts("evaluation", 32, Seed(7))
    inputs = words([g.prompt.text for g in groups], return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model.generate(**inputs, do_sample=False, temperature=None)
    texts = words.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    read = [summary_claims(text) for text in texts]
    assert sum(broken == 0 for _, broken in read) > 28
    rates = TASK.count_inventions(
        Group(g.prompt, (Completion(text),)) for g, text in zip(groups, texts, strict=True)
    )
    assert rates["right"] > 0.9


@pytest.mark.skipif(
    not (micro.ASSETS / "entailment" / "config.json").exists(),
    reason="make it with `python -m tandem.tasks.micro.entailment`",
)
def test_the_entailment_classifier_is_a_stock_folder() -> None:
    folder = TASK.entailment()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    words = AutoTokenizer.from_pretrained(folder)
    assert sorted(model.config.id2label.values()) == ["contradiction", "entailment", "neutral"]
    group = TASK.prompts("evaluation", 1, Seed(7))[0]
    made = posts.told_targets(group.prompt.meta)
    x = group.prompt.text
    texts = [posts.render_summary(facts) for facts in (made, made[:2])]
    pairs = [(0, 0), (0, 1), (1, 0)]
    inputs = words(
        [x + texts[i] for i, _ in pairs],
        [x + texts[j] for _, j in pairs],
        return_tensors="pt",
        padding=True,
    )
    with torch.inference_mode():
        said = model(**inputs).logits.argmax(-1)
    assert [model.config.id2label[int(i)] for i in said] == ["entailment", "entailment", "neutral"]


def test_a_missing_asset_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(micro, "ASSETS", tmp_path)
    for lacking in (TASK.model, TASK.entailment):
        with pytest.raises(ModelError) as caught:
            lacking()
        module = caught.value.do.partition("python -m ")[2].rstrip("`")
        assert find_spec(module) is not None, caught.value.do


def test_gates_on_numbers_made_by_hand() -> None:
    import numpy as np

    proxy, true = [np.array([1.0, 2.0, 4.0, 3.0])], [np.array([0.0, 5.0, 1.0, 2.0])]
    assert pair_accuracy(proxy, true) == 0.5
    assert best_of_truths(proxy, true, (1, 2, 4)) == {
        1: (2.5, 2.0, 2.0),
        2: (3.0, 3.0, 3.5),
        4: (4.0, 1.0, 5.0),
    }
    told = order_consistency([0.9, 0.9], [0.9, 0.1], [True, True])
    assert told["accuracy"] == 0.75
    assert told["same position wins"] == 0.5
    assert Gate("x", 0.5, 0.4, 0.6).holds
    assert "FAILS" in str(Gate("x", 0.7, 0.4, 0.6))
