"""The grammar of the micro world: what is written can be read back, and splits stay apart."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.tasks.micro import Micro, arithmetic, dialogue, feedback, lessons, posts, reading
from tandem.tasks.micro.skills import SPLITS, split_of
from tandem.tasks.micro.tokenizer import CONTEXT
from tandem.tasks.micro.truth import answer, summary_claims, true_worth, truth_parts
from tandem.tasks.micro.words import (
    AUTHOR,
    FEEDBACK,
    FEEDBACK_NAMES,
    KINDS,
    MAIN_NAMES,
    PRINCIPLES,
    VALUES,
    all_words,
)

SKILLS = ("summaries", "dialogue", "arithmetic")
SHARE = 200


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_vocabulary_is_small_and_without_repetition() -> None:
    words = all_words()
    assert len(words) == len(set(words)) <= 512
    assert all(len(set(values)) == 24 for values in VALUES.values())
    every = [value for values in VALUES.values() for value in values]
    assert len(every) == len(set(every))


def test_a_post_tells_three_facts_among_three_or_four_others() -> None:
    for seed in range(SHARE):
        meta = posts.make_post(rng(seed))
        assert len(meta["targets"]) == 3
        assert len(meta["told"]) in (6, 7)
        mine = {value for name, _, value in meta["told"] if name == AUTHOR}
        others = {value for name, _, value in meta["told"] if name != AUTHOR}
        assert not mine & others
        assert len(posts.post_question(meta).split()) <= 62


def test_a_rendered_summary_reads_back_as_its_claims() -> None:
    for seed in range(SHARE):
        meta = posts.make_post(rng(seed))
        made = posts.told_targets(meta)
        assert summary_claims(posts.render_summary(made, ("well",))) == (made, 0)


def test_ideal_answers_are_the_best_of_all_writers() -> None:
    for skill in SKILLS:
        task = Micro(skill)
        prompts = task.prompts("evaluation", 60, Seed(3))
        best = [group.scores[0] for group in task.truth()(task.ideals(prompts))]
        usual = [group.scores[0] for group in task.truth()(task.references(prompts))]
        assert all(b >= u for b, u in zip(best, usual, strict=True))
        assert skill == "arithmetic" or np.mean(best) > np.mean(usual) + 0.5


def test_a_problem_may_be_solved_in_any_order_that_arrives() -> None:
    meta = arithmetic.make_problem(rng(), arithmetic.STRATA[2]) | {
        "start": 2,
        "changes": [["-", 1], ["x", 3], ["+", 4]],
        "answer": 7,
    }
    assert arithmetic.step_orders(meta) == [meta]
    meta |= {"start": 5, "changes": [["-", 3], ["+", 4], ["-", 4]], "answer": 2}
    assert [[n for _, n in way["changes"]] for way in arithmetic.step_orders(meta)] == [
        [3, 4, 4],
        [4, 3, 4],
        [4, 4, 3],
        [4, 4, 3],
    ]
    for seed in range(SHARE):
        meta = arithmetic.make_problem(rng(seed), arithmetic.STRATA[2])
        ways = arithmetic.step_orders(meta)
        assert meta in ways
        assert all(arithmetic.is_sound(meta, arithmetic.right_solution(way)) for way in ways)


@pytest.mark.parametrize(
    ("chain", "right"),
    [
        ("9 + 4 = 13 , 13 - 3 = 10 . answer 10", True),
        ("9 - 3 = 6 , 6 + 4 = 10 . answer 10", True),
        ("9 + 4 = 13 , 13 - 3 = 9 . answer 10", False),
        ("9 + 4 = 12 , 12 - 3 = 10 . answer 10", False),
        ("9 + 4 = 13 , 13 - 3 = 10 . answer 11", False),
        ("9 + 4 = 13 , 12 - 2 = 10 . answer 10", False),
        ("9 + 1 = 10 . answer 10", False),
        ("9 + 4 = 13 . answer 13", False),
        ("9 + 4 = 13 , 13 + 4 = 17 . answer 17", False),
        ("9 + 4 = 13 , 13 - 3 = 10", False),
        ("answer 10", False),
        ("", False),
    ],
)
def test_a_sound_chain_is_right_in_every_step(chain: str, right: bool) -> None:
    meta = {"start": 9, "changes": [["+", 4], ["-", 3]], "answer": 10}
    assert arithmetic.is_sound(meta, chain) is right


def test_arithmetic_answers_follow_from_their_steps() -> None:
    for seed in range(SHARE):
        for stratum in arithmetic.STRATA:
            meta = arithmetic.make_problem(rng(seed), stratum)
            assert 0 <= meta["answer"] <= stratum.largest
            assert true_worth(meta, arithmetic.right_solution(meta)) == 1
            assert arithmetic.problem_question(meta, "hint").endswith(f"hint : {meta['answer']}")
            last = arithmetic.right_solution(meta).split(" . ")[0].split(" , ")[-1]
            left, sign, right, _, made = last.split()
            assert arithmetic.apply_step(int(left), sign, int(right)) == int(made)
            assert answer(arithmetic.write_solution(meta, rng(seed), form="only")) == str(
                meta["answer"]
            )


def test_a_hinted_chain_ends_at_the_hint_wherever_it_went() -> None:
    """A teacher who always slips is led back by the last step; without the hint he is lost."""
    told = []
    for seed in range(SHARE):
        meta = arithmetic.make_problem(rng(seed), arithmetic.STRATA[2])
        hinted = arithmetic.write_solution(meta, rng(seed), slips=1.0, form="hint")
        assert true_worth(meta, hinted) == 1
        assert hinted.split(" . ")[0].split()[-1] == str(meta["answer"])
        told.append(true_worth(meta, arithmetic.write_solution(meta, rng(seed), slips=1.0)))
    assert np.mean(told) < 0.1


def test_reading_lessons_say_of_each_claim_whether_it_is_right() -> None:
    for seed in range(SHARE):
        meta = posts.make_post(rng(seed))
        true, false = (
            posts.told_targets(meta),
            posts.wrong_claim(meta, rng(seed), meta["targets"][0][0]),
        )
        said = reading.checked_summary(
            meta, posts.render_summary([true[0], false, true[2]], ("well",))
        )
        assert [part.split()[-1] for part in said[:-2].split(" , ")] == ["yes", "no", "yes"]
        asked, said = reading.summary_question(rng(seed), meta)
        worth = truth_parts(meta, asked.split("(A) ")[1])
        assert said.split().count("yes") + said.split().count("no") == worth["clauses"]
        assert len(f"{asked} {said}".split()) < CONTEXT
    how = dialogue.make_request(rng(1)) | {"act": "fix", "thing": "kite", "place": "park"}
    clumsy = dialogue.steps_reply("fix", "kite", "farm")
    assert reading.checked_reply(how, clumsy) == "string yes , farm no , tighten yes ."
    assert reading.checked_reply(how, dialogue.refusal_reply(how)) == "it refuses ."


def test_some_compared_summaries_differ_in_one_fact_only() -> None:
    alone = 0
    for seed in range(SHARE):
        meta = posts.make_post(rng(seed), feedback=True)
        a, b = feedback.summary_pair(rng(seed), meta)
        assert true_worth(meta, a) != true_worth(meta, b)
        alone += (
            len(summary_claims(a)[0]) == len(summary_claims(b)[0])
            and len({*summary_claims(a)[0]} ^ {*summary_claims(b)[0]}) == 2
        )
    assert 0.3 < alone / SHARE < 0.6


def test_splits_never_share_a_prompt_and_evaluation_is_held_out() -> None:
    for skill in SKILLS:
        texts = {s: {g.prompt.text for g in Micro(skill).prompts(s, 300, Seed(1))} for s in SPLITS}
        assert all(len(found) == 300 for found in texts.values())
        assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
    for group in Micro("summaries").prompts("evaluation", 50, Seed(2)):
        assert posts.is_held_out_post(
            [(kind, value) for kind, value in group.prompt.meta["targets"]]
        )


def test_lessons_contain_no_evaluation_prompt() -> None:
    for seed in range(SHARE):
        assert split_of("summaries", lessons.training_post(rng(seed))) != "evaluation"
        assert split_of("dialogue", lessons.training_request(rng(seed))) != "evaluation"
        problem = lessons.training_problem(rng(seed), arithmetic.STRATA[2])
        assert split_of("arithmetic", problem) != "evaluation"


def test_prompts_depend_on_the_seed_and_on_nothing_else() -> None:
    task = Micro("dialogue")
    assert task.prompts("sft", 20, Seed(4)).hash == task.prompts("sft", 30, Seed(4))[:20].hash
    assert task.prompts("sft", 20, Seed(4)).hash != task.prompts("sft", 20, Seed(5)).hash


def test_prompts_and_demonstrations_are_well_formed() -> None:
    known = set(all_words())
    for skill in SKILLS:
        for group in Micro(skill).demonstrations(SHARE, Seed(0)):
            assert set(group.prompt.text.split()) <= known
            assert set(group.completions[0].text.split()) <= known
            assert group.prompt.messages is not None
            assert len(group.prompt.text.split()) <= 64


def test_a_round_shifts_the_mixture_of_topics() -> None:
    for round in range(3):
        for group in Micro("summaries").prompts("preference", 30, Seed(0), round=round):
            assert KINDS[round] in dict(map(tuple, group.prompt.meta["targets"]))


def test_feedback_is_taught_on_other_topics_than_it_is_used_on() -> None:
    taught = {value for values in VALUES.values() for value in values[FEEDBACK]}
    elsewhere = {value for values in VALUES.values() for value in values} - taught
    for seed in range(SHARE):
        lesson = feedback.feedback_lesson(rng(seed))
        words = {word for turn in lesson.messages for word in turn["content"].split()}
        prompts = [turn["content"] for turn in lesson.messages if turn["role"] == "user"]
        asked = " ".join(prompts).split("(A)")[0].split()
        assert not words & set(MAIN_NAMES)
        assert words & set(FEEDBACK_NAMES)
        assert not set(asked) & elsewhere
        assert words <= set(all_words())


def test_critiques_are_short_and_revisions_mend_one_attribute() -> None:
    for seed in range(SHARE):
        source = rng(seed)
        meta = dialogue.make_request(source)
        text = dialogue.write_reply(meta, source, dialogue.any_manner(source))
        for principle in PRINCIPLES:
            assert len(feedback.right_critique(principle, meta, text).split()) <= 40
            mended = feedback.right_revision(principle, meta, text)
            if not (principle == "useful" and meta["harmful"]):
                expected = -3.0 if principle == "useful" and meta["harmful"] else 0.0
                assert feedback.principle_faults(principle, meta, mended) == expected


def test_mistakes_are_explained() -> None:
    with pytest.raises(ConfigError, match="Did you mean `summaries`"):
        Micro("summary")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="version"):
        Micro(version="0")
    with pytest.raises(DataError, match="Did you mean `evaluation`"):
        Micro().prompts("evaluate", 1, Seed(0))
    with pytest.raises(DataError, match="no facts to invent"):
        Micro("dialogue").count_inventions([])


def test_the_world_loads_no_torch() -> None:
    code = "import sys, tandem.tasks.micro; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
