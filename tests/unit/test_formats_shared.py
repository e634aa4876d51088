"""The real files and the real small model beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.data.chat import decode_tokens, encode_groups
from tandem.data.check.check import check_data
from tandem.data.formats import read_data, write_data

SHARED = Path(__file__).parents[3] / "shared"
DATA = SHARED / "data"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.exists(), reason="no ../shared beside the repository"),
]


@pytest.fixture(scope="module")
def stories():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHARED / "models" / "stories260k")


@pytest.fixture(scope="module")
def hh():
    return read_data(DATA / "hh_harmless.jsonl.gz")


@pytest.fixture(scope="module")
def encoded(hh, stories):
    """HH in the small model's tokens, at most 512 of them."""
    return encode_groups(hh.groups, stories, max_length=512)


@pytest.mark.parametrize(
    ("name", "form", "kept", "columns"),
    [
        ("hh_harmless", "hh", 1796, None),
        ("alpacaeval_groups", "alpacaeval-groups", 500, None),
        ("llmbar_natural", "llmbar", 100, None),
        ("llmbar_neighbor", "llmbar", 134, None),
        (
            "gsm8k_train",
            "prompt-completion",
            3000,
            {"prompt": "question", "completion": "answer"},
        ),
        ("vicuna_questions", "prompt", 80, {"prompt": "text"}),
    ],
)
def test_every_file_is_read(name: str, form: str, kept: int, columns: dict[str, str] | None):
    data = read_data(DATA / f"{name}.jsonl.gz", columns=columns)
    assert data.format == form
    assert data.notes.kept == len(data.groups) == kept
    assert len({g.id for g in data.groups}) == kept


def test_hh_on_the_small_model(hh, encoded, stories):
    """About 70 % of the pairs fit into 512 tokens; nothing is lost in joining the pieces."""
    assert encoded.counts.kept == len(encoded.groups) == 1262
    assert sum(encoded.counts.dropped.values()) == 1796 - 1262
    before = {g.id: g for g in hh.groups}
    for group in encoded.groups[:100]:
        source = before[group.id]
        prompt = group.prompt.tokens.tolist()
        assert prompt.count(stories.bos_token_id) == 1
        for completion, said in zip(group.completions, source.completions, strict=True):
            tokens = completion.tokens.tolist()
            assert tokens[-1] == stories.eos_token_id
            assert tokens.count(stories.eos_token_id) == 1
            assert len(prompt) + len(tokens) <= 512
            text = decode_tokens([*prompt, *tokens], stories)
            assert text == f"{source.prompt.text} {said.text}"


def test_hh_without_a_seam_equals_the_whole_transcript(encoded, stories):
    """This tokenizer's pieces break at spaces, so prompt + answer is the whole text's encoding."""
    for group in encoded.groups[:200]:
        whole = stories(f"{group.prompt.text} {group.completions[0].text}")["input_ids"]
        joined = [*group.prompt.tokens, *group.completions[0].tokens[:-1]]
        assert joined == whole


def test_alpacaeval_keeps_the_completions_that_fit(stories):
    data = read_data(DATA / "alpacaeval_groups.jsonl.gz")
    counts = encode_groups(data.groups, stories, max_length=512).counts
    assert counts.completions == 7996
    assert counts.completions_kept < counts.completions / 2
    assert counts.kept + sum(counts.dropped.values()) == 500


def test_check_of_hh(stories):
    result = check_data(DATA / "hh_harmless.jsonl.gz", stories, 512)
    assert result.ok
    assert result.lengths.groups_dropped == 534
    assert result.facts.longest_wins == pytest.approx(0.451, abs=5e-4)
    assert result.lengths.ends == {"</s>": 3592}


def test_hh_written_and_read_again(hh, tmp_path: Path):
    groups = hh.groups
    for kind in ("hh", "preference"):
        assert write_data(groups, tmp_path / f"{kind}.jsonl.gz", kind).rows == len(groups)
        again = read_data(tmp_path / f"{kind}.jsonl.gz").groups
        pairs = [[c.text for c in g.completions] for g in groups]
        assert [[c.text for c in g.completions] for g in again] == pairs
        assert [g.prompt.text for g in again] == [g.prompt.text for g in groups]
