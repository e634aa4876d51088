"""What says the same: greedy clustering, exact and parsed answers, entailment, embeddings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, JudgeError, ModelError
from tandem.judges import Judge, open_judge
from tandem.judges.agreement import (
    Agreement,
    SameAnswer,
    SameText,
    cluster_greedily,
    cluster_texts,
    number_keys,
    run_clusterings,
)
from tandem.judges.semantic import (
    Embedding,
    Entailment,
    cluster_complete_linkage,
    embed_texts,
    find_equivalence,
    sentence_encoder,
)
from tandem.machine import Machine
from tandem.operators import cluster_share, shuffled_clusters, synthetic_pairs
from tandem.rng import Seed
from tandem.runs.identity import describe_value
from tandem.tasks.micro import Micro, SameFacts
from tiny import VOCABULARY, lm
from worlds import letters

FP32 = Machine(device="cpu", precision="fp32")
ASKED = Prompt("p", "abc")
LABELS = ("entailment", "neutral", "contradiction")


def group(texts: Sequence[str], name: str = "p", meta: dict[str, Any] | None = None) -> Group:
    return Group(Prompt(name, "abc", meta=meta or {}), tuple(Completion(t) for t in texts))


def clusters(same: Any, *groups: Group, seed: int = 0) -> list[list[int]]:
    judged = Agreement(same, Seed(seed), machine=FP32)(groups)
    return [g.clusters.tolist() for g in judged if g.clusters is not None]


# --- without a model -----------------------------------------------------------------------------


def test_equal_texts():
    assert clusters(SameText(), group(["x y", "z", " x  y "])) == [[0, 1, 0]]
    assert cluster_texts(SameText(), ASKED, ["b", "a", "b"]) == [0, 1, 0]


def test_stated_answers_are_self_consistency():
    texts = ["the answer is 2", "#### 1,024", "Answer: 1024", "no idea, 2", "answer: 3 answer: 2."]
    assert clusters(SameAnswer(), group(texts)) == [[0, 1, 1, -1, 0]]
    words = SameAnswer(lambda text: text.rpartition("is ")[2])
    assert clusters(words, group(["it is so", "is so", "is no"])) == [[0, 0, 1]]


def test_the_facts_of_the_micro_world_are_compared_whatever_their_order():
    prompt = next(iter(Micro().prompts("evaluation", 1, Seed(0))))
    (ideal,) = next(iter(Micro().ideals([prompt]))).completions
    body = ideal.text.removesuffix(" .").split(" , ")
    texts = [ideal.text, " , ".join(reversed(body)) + " .", f"{body[0]} .", "no words of it"]
    (found,) = clusters(SameFacts(), Group(prompt.prompt, tuple(Completion(t) for t in texts)))
    assert found == [0, 0, 1, -1]


def test_a_reply_and_an_answer_have_a_meaning_too():
    said = {"skill": "arithmetic", "answer": 3}
    assert clusters(SameFacts(), group(["2 + 1 answer 3", "answer 3", "3"], meta=said)) == [
        [0, 0, -1]
    ]


# --- greedy --------------------------------------------------------------------------------------


def run(texts: list[str | None], order: Sequence[int], alike: Any, floor: float = 0.0) -> Any:
    """Cluster with a relation that is given; also count what was compared."""
    asked: list[tuple[str, str]] = []

    def verdicts(rows: Sequence[tuple[int, str, str]]) -> list[bool]:
        asked.extend((a, b) for _, a, b in rows)
        return [alike(a, b) for _, a, b in rows]

    return run_clusterings([cluster_greedily(texts, order, floor)], verdicts)[0], asked


def near(a: str, b: str) -> bool:
    """Neighbouring letters: not transitive."""
    return abs(ord(a) - ord(b)) <= 1


def test_each_is_compared_with_the_first_member_only():
    """a-b-c in a row: from a, b joins it and c does not, though it is near b; from b all join."""
    assert run(["a", "b", "c"], [0, 1, 2], near)[0] == [0, 0, 1]
    assert run(["a", "b", "c"], [1, 0, 2], near)[0] == [0, 0, 0]
    assert run(["a", "b", "c"], [2, 0, 1], near)[0] == [0, 1, 1]


def test_equal_texts_are_never_compared():
    found, asked = run(["a", "d", "a", "d"], range(4), near)
    assert found == [0, 1, 0, 1]
    assert asked == [("a", "d")]


def test_what_has_no_answer_joins_nobody():
    assert run([None, "a", None, "b"], range(4), near)[0] == [-1, 0, -1, 0]


def test_it_stops_when_no_cluster_can_reach_the_floor():
    """Of five different texts none can hold .5 after three are apart: 1 + 1 left < 2.5 at the
    fourth. Whatever it leaves out, the operator keeps the same prompts."""
    texts: list[str | None] = ["a", "d", "g", "j", "m"]
    whole, asked = run(texts, range(5), near)
    short, fewer = run(texts, range(5), near, floor=0.5)
    assert whole == [0, 1, 2, 3, 4]
    assert short == [0, 1, 2, 3, -1]
    assert len(fewer) == 6 < len(asked) == 10
    kept = run(["a", "b", "a", "k"], range(4), near, floor=0.5)[0]
    assert kept == [0, 0, 0, 1]


@pytest.mark.parametrize("floor", [0.3, 0.5, 0.8])
def test_a_floor_changes_no_decision_at_that_gamma(floor: float):
    rng = np.random.default_rng(0)
    for _ in range(60):
        texts = [chr(97 + int(k)) for k in rng.integers(0, 8, 6)]
        order = rng.permutation(6).tolist()
        kept = [
            list(synthetic_pairs(floor, winner="uniform")([clustered(texts, found)], Seed(0)))
            for found in (run(texts, order, near)[0], run(texts, order, near, floor)[0])
        ]
        assert len(kept[0]) == len(kept[1])


def clustered(texts: Sequence[str], found: Sequence[int]) -> Group:
    return Group(ASKED, tuple(map(Completion, texts)), clusters=np.array(found, np.int32))


def test_prompts_run_in_step_and_keep_their_places():
    texts = [["a", "c", "b"], ["x"], ["m", "m"], ["q", "a", "p", "b"]]
    alone = [run(list(t), range(len(t)), near)[0] for t in texts]
    every = run_clusterings(
        [cluster_greedily(t, range(len(t))) for t in texts],
        lambda rows: [near(a, b) for _, a, b in rows],
    )
    assert every == alone


# --- entailment ----------------------------------------------------------------------------------


def classifier(path: Path, labels: Sequence[str] = LABELS, **more: Any) -> Path:
    """A random classifier; other orders of the labels have the head's rows in that order."""
    model = lm(auto=hf.AutoModelForSequenceClassification, num_labels=3, **more)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: k for k, name in enumerate(labels)}
    if sorted(labels) == sorted(LABELS):
        rows = torch.stack([model.score.weight[LABELS.index(name)] for name in labels])
        model.score.weight.data.copy_(rows)
    model.save_pretrained(path)
    tokenizer = letters(VOCABULARY)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(path)
    return path


TEXTS = ["hello", "hi", "goodbye", "hell", "bye", "hello", "h", "good"]


def by_hand(path: Path, strict: bool, seed: Seed) -> list[int]:
    """Cluster as docs/theory/rlp.md#synthetic-pairs says, pair by pair, unpadded."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer: Any = hf.AutoTokenizer.from_pretrained(path)

    def said(a: str, b: str) -> str:
        with torch.no_grad():
            row = tokenizer("abc" + a, "abc" + b, return_tensors="pt")
            return model.config.id2label[int(model(**row).logits.argmax())]

    def same(a: str, b: str) -> bool:
        both = {said(a, b), said(b, a)}
        return (
            both == {"entailment"}
            if strict
            else ("contradiction" not in both and both != {"neutral"})
        )

    first: list[str] = []
    found: dict[int, int] = {}
    for i in seed.at("agreement", "p").rng().permutation(len(TEXTS)).tolist():
        joined = [k for k, head in enumerate(first) if head == TEXTS[i] or same(head, TEXTS[i])]
        found[i] = joined[0] if joined else len(first)
        if not joined:
            first.append(TEXTS[i])
    return number_keys([found[i] for i in range(len(TEXTS))])


@pytest.mark.parametrize("strict", [True, False])
def test_entailment_in_batches_is_entailment_by_hand(strict: bool, tmp_path: Path):
    path, seen = classifier(tmp_path / "nli"), set()
    for seed in range(4):
        (found,) = clusters(Entailment(path, strict), group(TEXTS), seed=seed)
        assert found == by_hand(path, strict, Seed(seed))
        seen.add(tuple(found))
    assert len({len(set(found)) for found in seen} - {1, len(set(TEXTS))}) > 0


def test_labels_are_found_by_name(tmp_path: Path):
    """A model whose labels are in another order clusters alike: MNLI checkpoints differ."""
    wanted = clusters(Entailment(classifier(tmp_path / "a")), group(TEXTS))
    for k, order in enumerate(itertools.permutations(LABELS)):
        path = classifier(tmp_path / str(k), order)
        assert clusters(Entailment(path), group(TEXTS)) == wanted
    for bad in (["LABEL_0", "LABEL_1", "LABEL_2"], ["entailment", "neutral", "entailments"]):
        with pytest.raises(ModelError, match="names its labels"):
            clusters(Entailment(classifier(tmp_path / "bad", bad)), group(TEXTS))


def test_what_the_model_cannot_read_whole_is_refused_or_apart(tmp_path: Path):
    """64 tokens are room for two texts of 32: 3 of the prompt and 29 of an answer fit."""
    path = classifier(tmp_path / "nli")
    fits, long = "x" * 29, "y" * 30
    assert -1 not in clusters(Entailment(path), group([fits, "a"]))[0]
    with pytest.raises(JudgeError, match="1 of 3 completions do not fit"):
        clusters(Entailment(path), group([fits, "a", long]))
    (found,) = clusters(Entailment(path, too_long="apart"), group([fits, long, long]))
    assert found == [0, -1, -1]
    assert cluster_share(clustered([fits, long, long], found)) == pytest.approx(1 / 3)


def test_a_judge_like_others(tmp_path: Path):
    """Its answer about a group depends on that group alone, and a run tells it by content."""
    path = classifier(tmp_path / "nli")
    rows = [group(TEXTS[k:] + TEXTS[:k], f"p{k}") for k in range(5)]
    judge = Agreement(Entailment(path))
    assert isinstance(judge, Judge)
    forth = {g.id: g.clusters for g in open_judge(judge, FP32)(rows)}
    back = {g.id: g.clusters for g in open_judge(judge, FP32)(reversed(rows))}
    assert all(np.array_equal(forth[name], back[name]) for name in forth)
    told = json.dumps(describe_value(judge))
    assert told == json.dumps(
        describe_value(Agreement(Entailment(classifier(tmp_path / "b" / "nli"))))
    )
    assert told != json.dumps(describe_value(Agreement(Entailment(path, strict=False))))


# --- embeddings ----------------------------------------------------------------------------------


def test_complete_linkage_bounds_every_pair():
    """Unit vectors at 0, 20, 40 degrees: cos 20 = .94, cos 40 = .77. At .9 single linkage would
    join all three; here two are together, and at .7 all."""
    at = {
        t: np.array([np.cos(x), np.sin(x)])
        for t, x in zip("abc", np.radians([0, 20, 41]), strict=True)
    }
    assert cluster_complete_linkage(["a", "b", "c"], at, 0.9) == [0, 0, 1]
    assert cluster_complete_linkage(["a", "b", "c"], at, 0.7) == [0, 0, 0]
    assert cluster_complete_linkage(["c", "a", None, "c"], at, 0.9) == [0, 1, -1, 0]


def test_any_encoder_folder_embeds(tmp_path: Path):
    """Means over the own tokens only: batches and padding change nothing."""
    lm("gpt2", auto=hf.AutoModel).save_pretrained(tmp_path)
    tokenizer = letters(VOCABULARY)
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(tmp_path)
    alone = clusters(Embedding(tmp_path, 0.95), group(["ab", "ab", "ba"]))
    mixed = clusters(Embedding(tmp_path, 0.95), group(["ab", "ab", "ba"]), group(["abcdefgh"]))
    assert alone[0] == mixed[0]
    assert alone[0][:2] == [0, 0]
    assert clusters(Embedding(tmp_path, -1), group(["ab", "cd", "ba"])) == [[0, 0, 0]]
    assert clusters(Embedding(tmp_path, 1.0), group(["ab", "cd", "ba"])) == [[0, 1, 2]]
    rows = embed_texts(tmp_path, ["ab", "cd", "ba", "abcdefghi", "ab"])
    assert sorted(rows) == ["ab", "ba", "cd"]  # each once, and what is too long not at all
    assert cluster_complete_linkage(["ab", "cd", "ba"], rows, 1.0) == [0, 1, 2]
    with pytest.raises(JudgeError, match="do not fit"):
        clusters(Embedding(tmp_path), group(["abcdefghi", "a"]))


@pytest.mark.embedding
def test_the_extra_knows_a_paraphrase():
    try:
        folder = sentence_encoder()
    except ModelError:
        pytest.skip("the extra `embedding` is not installed")
    texts = ["The sky is blue.", "The sky has a blue colour.", "I like my new bicycle."]
    assert clusters(Embedding(folder), group(texts)) == [[0, 0, 1]]


# --- names and operators -------------------------------------------------------------------------


def test_backends_have_names(tmp_path: Path):
    own = Micro().same()
    assert find_equivalence("task", own) is next(iter(own.values()))
    assert find_equivalence("facts", own) == SameFacts()
    assert find_equivalence("exact", {}) == SameText()
    assert find_equivalence("answer", {}) == SameAnswer()
    assert find_equivalence(f"nli:{tmp_path}", {}) == Entailment(tmp_path, too_long="apart")
    assert find_equivalence(f"embedding:{tmp_path}", {}) == Embedding(tmp_path, too_long="apart")
    for spec in ("task", "nli", "meaning"):
        with pytest.raises(ConfigError, match="same = "):
            find_equivalence(spec, {})


def test_shuffled_clusters_keep_their_sizes_and_lose_their_meaning():
    groups = Groups.of(
        Group(Prompt(f"p{k}", "x"), tuple(map(Completion, "abcdefghij")),
              clusters=np.array([0] * 5 + [1] * 3 + [2] * 2, np.int32))
        for k in range(400)
    )  # fmt: skip
    dealt = list(shuffled_clusters()(groups, Seed(0)))
    assert all(sorted(g.clusters.tolist()) == [0] * 5 + [1] * 3 + [2] * 2 for g in dealt)  # type: ignore[union-attr]
    assert {cluster_share(g) for g in dealt} == {0.5}
    inside = np.array([g.clusters == 0 for g in dealt]).mean(0)
    np.testing.assert_allclose(inside, 0.5, atol=4 * 0.5 / 20)  # four standard errors
