"""`data check`: each finding on data made to have it, and not on data made not to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.data.check.check import DataCheck, check_data
from tandem.errors import DataError
from vocabularies import CHATML, byte_bpe


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


CLEAN = [pair(f"ask {k}", "yes " * (1 + k % 2), "no " * (2 - k % 2)) for k in range(30)]


def found(tmp_path: Path, *rows: Any, **how: Any) -> DataCheck:
    return check_data(lines(tmp_path / "data.jsonl", *rows), **how)


def test_clean_data_has_no_findings(tmp_path: Path):
    result = found(tmp_path, *CLEAN, tokenizer=byte_bpe(), max_length=64)
    assert result.ok
    assert result.warnings == ()
    assert "no errors, no warnings" in result.text()
    assert len(result.examples) == 3
    assert sum(result.lengths.counts) == 60


def test_the_longest_answer_baseline(tmp_path: Path):
    """Winner longer, longer, shorter, equal: longer in 2/4; the baseline gets 2 + 1/2 of 4."""
    rows = [pair("a", "xx", "y"), pair("b", "xx", "y"), pair("c", "x", "yy"), pair("d", "x", "y")]
    result = found(tmp_path, *rows)
    assert result.facts.chosen_longer == 0.5
    assert result.facts.longest_wins == 0.625
    assert any("62.5%" in w for w in result.warnings)
    assert "'the longest answer wins' scores 62.5% of 4 pairs" in result.text()


def test_a_misspelt_column_is_not_passed_over(tmp_path: Path):
    row = {"prompt": "a", "chosen": "b", "rejcted": "c"}
    with pytest.raises(DataError, match="`chosen` would be left out") as error:
        found(tmp_path, row)
    assert "--columns rejected=rejcted" in error.value.do
    row = {"prompt": "a", "completion": "b", "ratings": [4]}
    result = found(tmp_path, row)
    assert any("`ratings` look like judgments" in w for w in result.warnings)
    assert "not read: ratings" in result.text()


def test_examples_say_which_answer_was_preferred(tmp_path: Path):
    text = found(tmp_path, pair("a", "xx", "y")).text()
    assert "-- completion 0, preferred in 1 of 1\nxx" in text


def test_duplicates_contradictions_and_what_was_dropped(tmp_path: Path):
    row = pair("a", "yes", "no!")
    result = found(
        tmp_path, *CLEAN, row, row, pair("a", "no!", "yes"), pair("b", "s", "s"), pair("c", "", "t")
    )
    assert result.facts.duplicates == 2
    assert result.facts.contradictory == 1
    text = " ".join(result.warnings)
    for words in ("2 groups repeat", "1 preferences contradict", "1 pairs have", "1 answers are"):
        assert words in text
    assert result.ok, "these are to be looked at, not to be mended first"


def test_overlap_with_another_file_is_an_error(tmp_path: Path):
    other = lines(tmp_path / "eval.jsonl", {"prompt": "ask 3"}, {"prompt": "ask 99"})
    result = found(tmp_path, *CLEAN, against=[other])
    assert result.overlap == {str(other): 1}
    assert not result.ok
    assert "ERROR 1 prompts are also in" in result.text()


def test_overlap_between_splits_of_one_source(tmp_path: Path):
    import datasets

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list(CLEAN)
    datasets.DatasetDict({"train": data, "test": data.select(range(4))}).save_to_disk(
        str(tmp_path / "d")
    )
    result = check_data(tmp_path / "d")
    assert result.overlap == {"test": 4}
    assert not result.ok


def test_what_will_not_fit(tmp_path: Path):
    rows = [*CLEAN, *(pair(f"long {k}", "yes " * 100, "no") for k in range(10))]
    result = found(tmp_path, *rows, tokenizer=byte_bpe(), max_length=40)
    assert result.lengths.too_long == 10
    assert result.lengths.truncated == pytest.approx(10 / 80)
    assert result.lengths.groups_dropped == 10
    assert any("12.5% of completions do not fit into 40 tokens" in w for w in result.warnings)
    assert result.ok
    nothing = found(tmp_path, *CLEAN, tokenizer=byte_bpe(), max_length=2)
    assert "nothing fits into 2 tokens" in nothing.errors


def test_ends_and_plain_text_under_a_template(tmp_path: Path):
    result = found(tmp_path, *CLEAN, tokenizer=byte_bpe(CHATML))
    assert result.lengths.ends == {"</s>": 60}
    assert result.lengths.plain == 30
    assert any("30 groups are plain text" in w for w in result.warnings)


def test_two_bos_are_an_error(tmp_path: Path):
    template = "<s>" + CHATML.replace("<|im_start|>user", "<s><|im_start|>user")
    doubled = "<s><s>" + template
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    assert not found(tmp_path, *rows, tokenizer=byte_bpe(doubled)).ok
    assert found(tmp_path, *rows, tokenizer=byte_bpe("<s>" + CHATML)).ok


def test_an_end_that_the_text_spells_out(tmp_path: Path):
    result = found(tmp_path, *CLEAN, pair("z", "stop</s> and go on", "no"), tokenizer=byte_bpe())
    assert result.lengths.inner_eos == 1
    assert any("1 completions hold an EOS" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("row", "method"),
    [
        (pair("a", "b", "c"), "dpo"),
        ({"prompt": "a", "completion": "b", "label": True}, "kto"),
        ({"prompt": "a", "completion": "b"}, "sft"),
        ({"prompt": "a"}, "direct"),
        ({"prompt": "a", "completions": ["x", "y", "z"], "ranks": [1, 2, 3]}, "reward"),
    ],
)
def test_methods_for_the_shape(row: dict[str, Any], method: str, tmp_path: Path):
    assert found(tmp_path, row).methods[0].startswith(method)


def test_json_holds_what_the_text_says(tmp_path: Path):
    result = found(tmp_path, *CLEAN, tokenizer=byte_bpe(), max_length=64)
    values = json.loads(result.json())
    assert values["format"] == "preference"
    assert values["ok"] is True
    assert values["facts"]["decided"] == 30
    assert values["lengths"]["truncated"] == 0
    assert "\\u001b" not in result.json()
    assert "\033[" in result.text(colour=True)
    assert "\033[" not in result.text()
