"""Translation between two surfaces of the micro language: the truth reads what was written."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tandem.data.record import Completion, Group
from tandem.rng import Seed
from tandem.tasks import Sizes
from tandem.tasks.load import load_task
from tandem.tasks.micro import Micro, TranslationRater, true_worth
from tandem.tasks.micro import translation as tr
from tandem.tasks.micro.annotators import known_facts
from tandem.tasks.micro.gates import translation_gates
from tandem.tasks.micro.skills import SPLITS
from tandem.tasks.micro.tokenizer import CONTEXT
from tandem.tasks.micro.truth import claimed_meaning
from tandem.tasks.micro.words import KINDS, VALUES, all_words

TASK = Micro("translation")
META = {"skill": "translation", "told": [["i", "place", "park"], ["ana", "person", "aunt"]]}


def prompts(n: int = 40, split: str = "evaluation") -> list[Group]:
    return list(TASK.prompts(split, n, Seed(3)))


def test_every_value_has_a_word_of_its_own_in_another_kind():
    words = {(k, v): tr.translate_value(k, v) for k in KINDS for v in VALUES[k]}
    assert len(set(words.values())) == len(words)
    assert all(v not in VALUES[k] for (k, _), v in words.items())


def test_the_reference_is_right_and_so_is_any_choice_of_verbs():
    for group in prompts():
        meta = known_facts(group)
        assert true_worth(meta, tr.ideal_translation(meta)) == 1.0
        drawn = tr.write_translation(meta, Seed(1).at(group.id).rng(), tr.PERFECT)
        assert true_worth(meta, drawn) == 1.0
        assert set(drawn.split()) <= set(all_words())
        assert len(group.prompt.text.split()) + len(drawn.split()) < CONTEXT


def test_the_source_itself_is_no_translation():
    for group in prompts(10):
        question = tr.translation_question(known_facts(group))
        assert true_worth(known_facts(group), question) == 0.0


def test_order_inventions_and_omissions_cost():
    first, second = (tuple(fact) for fact in META["told"])
    verbs = [tr.VERBS[kind][0] for kind in ("place", "person")]
    whole = tr.render_translation([first, second], verbs)
    assert true_worth(META, whole) == 1.0
    assert true_worth(META, tr.render_translation([second, first], verbs[::-1])) == 0.5
    assert true_worth(META, tr.render_translation([first], verbs[:1])) == pytest.approx(2 / 3)
    false = ("i", "place", "school")
    assert true_worth(META, tr.render_translation([false, second], verbs)) == 0.5
    assert tr.translation_parts(META, tr.render_translation([false], verbs[:1]))["invented"] == 1
    assert true_worth(META, whole.removesuffix(" .")) == pytest.approx(0.9)
    assert true_worth(META, "") == 0.0


def test_demonstrations_are_good_on_average_and_imperfect():
    worth = [true_worth(known_facts(g), g.completions[0].text) for g in
             TASK.demonstrations(300, Seed(0))]  # fmt: skip
    assert 0.75 < np.mean(worth) < 0.97
    assert min(worth) < 1


def test_splits_share_no_prompt():
    seen = [{g.prompt.text for g in prompts(60, split)} for split in ("sft", "evaluation")]
    assert not seen[0] & seen[1]


def test_evaluation_prompts_alone_have_combinations_that_are_held_out():
    for split in SPLITS:
        for group in prompts(60, split):
            pairs = combinations(known_facts(group)["told"], 2)
            held_out = [pair for pair in pairs if tr.is_held_out_source({"told": pair})]
            assert bool(held_out) == (split == "evaluation")


def test_answers_mean_the_same_where_they_are_read_as_the_same():
    facts = [tuple(fact) for fact in META["told"]]
    said = [
        tr.render_translation(facts, [tr.VERBS[kind][k] for _, kind, _ in facts]) for k in (0, 1)
    ]
    assert claimed_meaning(META, said[0]) == claimed_meaning(META, said[1]) is not None
    assert claimed_meaning(META, said[0]) != claimed_meaning(META, said[0].partition(" and ")[0])
    for nonsense in ("drum drum .", "and", ""):
        assert claimed_meaning(META, nonsense) is None
    assert list(TASK.same()) == ["facts"]  # the classifier has read no translations


def test_the_task_s_references_are_right_and_those_of_bleu():
    few = Sizes(demonstrations=2, pairs=2, held_out=2, prompts=2, evaluation=20)
    references = load_task("micro-translation", few).references
    assert references is not None
    for group in references:
        assert group.completions[0].text == tr.ideal_translation(known_facts(group))


def rated(noise: float) -> list[Group]:
    groups = []
    for group in prompts(200):
        meta = known_facts(group)
        bad = tr.write_translation(meta, Seed(2).at(group.id).rng(), tr.TranslatorQuality(0.6))
        texts = (tr.ideal_translation(meta), bad)
        groups.append(Group(group.prompt, tuple(Completion(t) for t in texts)))
    return list(TranslationRater(noise=noise)(groups))


def test_gates_measure_what_a_comparison_rests_on():
    sft, reward = translation_gates([np.array([1.0, 0.0])] * 200, rated(0.0))
    assert 0.5 < sft.value < 0.9
    assert reward.value == 1.0  # the ideal stands first, and the reward likes the first


def test_flips_turn_preferences_round():
    sure = [g.preferences[0].p for g in rated(0.0)]
    flipped = [g.preferences[0].p for g in TranslationRater(noise=0.0, flips=0.3)(rated(0.0))]
    turned = [a != b for a, b in zip(sure, flipped, strict=True) if a != 0.5]
    assert 0.2 < np.mean(turned) < 0.4
    assert all(b == 0.5 for a, b in zip(sure, flipped, strict=True) if a == 0.5)


def test_ratings_follow_the_truth_with_noise_and_ties():
    sure, noisy = (np.array([g.preferences[0].p for g in rated(noise)]) for noise in (0.0, 0.5))
    assert set(sure) <= {0.5, 1.0}
    assert 0 < np.mean(noisy < 0.5) < 0.4
    assert np.mean(noisy) > 0.6
    assert [g.preferences for g in rated(0.5)] == [g.preferences for g in rated(0.5)]


def test_metrics_of_the_reference_are_perfect_and_of_another_right_translation_are_not():
    pytest.importorskip("sacrebleu")
    from tandem.tasks.micro.translation_metrics import score_translations

    references = list(TASK.ideals(prompts(20)))
    assert score_translations(references) == pytest.approx({"BLEU": 100, "chrF": 100})
    others = [
        Group(
            g.prompt, (Completion(tr.write_translation(known_facts(g), Seed(5).rng(), tr.PERFECT)),)
        )
        for g in references
    ]
    found = score_translations(others)
    assert 5 < found["BLEU"] < 95
    assert 20 < found["chrF"] < 99
    tallies = TASK.tallies()
    assert tallies["chrF"](references[0]) == pytest.approx(100)
    assert tallies["BLEU"](references[0]) == pytest.approx(100)
