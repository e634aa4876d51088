"""What is written is read again: the same prompts, answers and judgements, whatever they say."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.data.chat.transcripts import answer_of, answer_segments, prompt_of
from tandem.data.formats import read_data, write_data
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError, DataError

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda t: t.strip() != ""
)
said = text.map(lambda t: "w" + t.replace("\n", "").strip() + "w")


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    meta = draw(st.dictionaries(st.sampled_from(["topic", "source"]), said, max_size=2))
    if draw(st.booleans()):
        return Prompt("", "P" + draw(text), meta=meta)
    turns = [{"role": "user", "content": draw(said)}]
    if draw(st.booleans()):
        turns += [
            {"role": "assistant", "content": draw(said)},
            {"role": "user", "content": draw(said)},
        ]
    return Prompt("", *prompt_of(turns), meta=meta)


@st.composite
def completion_lists(draw: st.DrawFn, prompt: Prompt, n: int) -> tuple[Completion, ...]:
    texts = draw(st.lists(said, min_size=n, max_size=n, unique=True))
    several = prompt.messages is not None and draw(st.booleans())
    if not several:
        return tuple(Completion(t) for t in texts)
    more = [{"role": "user", "content": "and?"}, {"role": "assistant", "content": "so."}]
    return tuple(answer_of([{"role": "assistant", "content": t}, *more]) for t in texts)


@st.composite
def pairs(draw: st.DrawFn) -> Group:
    prompt = draw(prompts())
    p = draw(st.sampled_from([1.0, 0.75, 0.5625]))
    margin = draw(st.none() | st.floats(0, 4, width=16))
    return Group(
        prompt, draw(completion_lists(prompt, 2)), preferences=(Preference(0, 1, p, margin),)
    )


def again(groups: list[Group], kind: str, ending: str = ".jsonl") -> Groups:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"out{ending}"
        assert write_data(Groups.of(groups), path, kind).rows == len(groups)
        return read_data(path, format=None if kind != "hh" else "hh").groups


def same(a: Group, b: Group) -> None:
    assert (a.prompt.text, a.prompt.messages) == (b.prompt.text, b.prompt.messages)
    assert a.prompt.meta == b.prompt.meta
    assert [(c.text, c.turns) for c in a.completions] == [(c.text, c.turns) for c in b.completions]
    assert a.preferences == b.preferences
    np.testing.assert_array_equal(a.scores, b.scores)  # type: ignore[arg-type]


def check(groups: list[Group], kind: str) -> None:
    groups = [replace(g, prompt=replace(g.prompt, id=f"p{k}")) for k, g in enumerate(groups)]
    out = again(groups, kind)
    assert [g.id for g in out] == [g.id for g in groups]
    for a, b in zip(groups, out, strict=True):
        same(a, b)


quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(st.lists(pairs(), min_size=1, max_size=3))
def test_preference_round_trip(groups: list[Group]):
    check(groups, "preference")


@quick
@given(
    st.lists(
        prompts().flatmap(lambda p: st.builds(Group, st.just(p), completion_lists(p, 1))),
        min_size=1,
        max_size=3,
    )
)
def test_demonstration_round_trip(groups: list[Group]):
    check(groups, "prompt-completion")


@quick
@given(
    st.lists(
        prompts().flatmap(lambda p: st.builds(Group, st.just(p), completion_lists(p, 1))),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_unpaired_round_trip(groups: list[Group], good: bool):
    check([replace(g, scores=np.array([float(good)])) for g in groups], "unpaired")


@quick
@given(
    st.lists(
        prompts().flatmap(lambda p: st.builds(Group, st.just(p), completion_lists(p, 3))),
        min_size=1,
        max_size=3,
    )
)
def test_answers_round_trip(groups: list[Group]):
    check(groups, "answers")


@quick
@given(st.lists(prompts(), min_size=1, max_size=3))
def test_prompt_round_trip(found: list[Prompt]):
    check([Group(p) for p in found], "prompt")


@quick
@given(prompts(), st.lists(st.floats(-4, 4, width=16), min_size=3, max_size=3), st.data())
def test_scored_round_trip(prompt: Prompt, scores: list[float], data: st.DataObject):
    group = Group(prompt, data.draw(completion_lists(prompt, 3)), np.array(scores))
    out = again([replace(group, prompt=replace(prompt, id="p"))], "scored")[0]
    same(replace(group, preferences=out.preferences), out)
    for i in range(3):
        for j in range(3):
            found = [v.margin for v in out.preferences if (v.i, v.j) == (i, j)]
            assert found == ([scores[i] - scores[j]] if scores[i] > scores[j] else [])


@quick
@given(prompts(), st.permutations([1, 2, 3]), st.data())
def test_ranked_round_trip(prompt: Prompt, ranks: list[int], data: st.DataObject):
    votes = tuple(Preference(i, j) for i in range(3) for j in range(3) if ranks[i] < ranks[j])
    group = Group(prompt, data.draw(completion_lists(prompt, 3)), preferences=votes)
    check([group], "ranked")


@quick
@given(st.lists(pairs().filter(lambda g: g.prompt.messages is not None), min_size=1, max_size=3))
def test_hh_round_trip(groups: list[Group]):
    check(groups, "hh")


def test_messages_round_trip():
    turns = [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    prompt = Prompt(
        "", *prompt_of([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}])
    )
    check(
        [Group(prompt, (answer_of(turns),)), Group(replace(prompt), (Completion("x"),))], "messages"
    )


def test_a_tie_is_left_out_and_counted(tmp_path: Path):
    answers = (Completion("a"), Completion("b"))
    groups = [
        Group(Prompt("1", "p"), answers, preferences=(Preference(0, 1, 0.5),)),
        Group(Prompt("2", "q"), answers, preferences=(Preference(0, 1, 0.25),)),
    ]
    done = write_data(Groups.of(groups), tmp_path / "o.jsonl", "preference")
    assert (done.rows, done.left_out) == (1, {"no preference, or a tie": 1})
    row = json.loads((tmp_path / "o.jsonl").read_text())
    assert row == {"id": "2", "prompt": "q", "chosen": "b", "rejected": "a", "p_chosen": 0.75}


def test_nothing_is_left_behind_by_a_failed_write(tmp_path: Path):
    groups = Groups.of([Group(Prompt("1", "p"))])
    with pytest.raises(DataError, match="no group can be written"):
        write_data(groups, tmp_path / "o.jsonl", "preference")
    with pytest.raises(ConfigError, match="'preferences'"):
        write_data(groups, tmp_path / "o.jsonl", "preferences")
    with pytest.raises(ConfigError, match="ending"):
        write_data(groups, tmp_path / "o.xlsx", "prompt")
    mixed = [Group(Prompt(str(k), str(k), meta={"a": v})) for k, v in enumerate([1, "x"])]
    with pytest.raises(DataError, match=r"o\.parquet"):
        write_data(Groups.of(mixed), tmp_path / "o.parquet", "prompt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "votes", [[(0, 1)], [(0, 1), (1, 2)], [(0, 1), (1, 2), (2, 0)]], ids=["one", "chain", "circle"]
)
def test_preferences_that_are_no_ranking_are_not_written_as_one(votes, tmp_path: Path):
    """Three answers and one vote would be read back as two votes."""
    three = Group(
        Prompt("q", "ask"), tuple(map(Completion, "abc")),
        preferences=tuple(Preference(i, j) for i, j in votes),
    )  # fmt: skip
    with pytest.raises(DataError, match="no ranking"):
        write_data(Groups.of([three]), tmp_path / "x.jsonl", "ranked")


def test_an_id_of_ones_own_keeps_its_sign(tmp_path: Path):
    answered = [Group(Prompt(name, name), (Completion("a"),)) for name in ("issue#12", "#7")]
    again = [Group(Prompt(name, "one"), (Completion(name),)) for name in ("p", "p#2")]
    write_data(Groups.of([*answered, *again]), tmp_path / "x.jsonl", "prompt-completion")
    lines = [json.loads(x) for x in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [row["id"] for row in lines] == ["issue#12", "#7", "p", "p"]


def test_what_a_transcript_cannot_say_is_left_out(tmp_path: Path):
    """One system turn, and the whole file would be read as plain text."""
    vote = (Preference(0, 1),)
    answers = (Completion("a"), Completion("b"))
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    brief = Group(Prompt("s", *prompt_of(turns)), answers, preferences=vote)
    plain = Group(Prompt("u", *prompt_of(turns[1:])), answers, preferences=vote)
    marked = Group(Prompt("m", *prompt_of([{"role": "user", "content": "\n\nHuman: x"}])), answers,
                   preferences=vote)  # fmt: skip
    done = write_data(Groups.of([brief, plain, marked]), tmp_path / "x.jsonl", "hh")
    assert (done.rows, sum(done.left_out.values())) == (1, 2)
    assert read_data(tmp_path / "x.jsonl").format == "hh"


def test_answers_in_a_prompt_are_not_trained_on_when_read_again(tmp_path: Path):
    turns = [
        {"role": "user", "content": "u1"}, {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
    ]  # fmt: skip
    group = Group(Prompt("", *prompt_of(turns)), (Completion("a2"),))
    write_data(Groups.of([group]), tmp_path / "x.jsonl", "messages")
    (again,) = read_data(tmp_path / "x.jsonl").groups
    (completion,) = again.completions
    assert completion.turns is not None
    pieces = answer_segments(completion.turns)
    assert [text.strip() for text, trained in pieces if trained] == ["a2"]
    assert "a1" in "".join(text for text, _ in pieces)


def test_a_format_for_groups_of_our_own_is_refused(tmp_path: Path):
    Groups.of([Group(Prompt("q", "ask"), (Completion("a"),))]).write(tmp_path / "g.parquet")
    with pytest.raises(ConfigError, match="own groups"):
        read_data(tmp_path / "g.parquet", format="prompt")
    with pytest.raises(ConfigError, match="own groups"):
        read_data(tmp_path / "g.parquet", columns={"prompt": "x"})
    assert len(read_data(tmp_path / "g.parquet", format="groups").groups) == 1
