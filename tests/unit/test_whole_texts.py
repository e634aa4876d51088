"""Texts without a prompt: trained on whole, and told apart by what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from tandem import cli
from tandem.data.chat import encode_groups
from tandem.data.chat.transcripts import is_whole_text, prompt_key
from tandem.data.formats import read_data, split_groups
from tandem.data.groups import Groups
from vocabularies import CHATML, TEXT, byte_bpe
from worlds import CHARACTERS

LONG = [f"{k}. {text}" for k, text in enumerate(TEXT * 6)]


def spaced() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text, as Llama 2's does."""
    words = sorted({w for line in LONG for w in line.split()})
    known = {w: k for k, w in enumerate(["<unk>", "</s>", *(f"\u2581{w}" for w in words)])}
    backend = Tokenizer(models.WordLevel(known, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def texts(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "tokenizer",
    [byte_bpe(), byte_bpe(bos=True), byte_bpe(CHATML), spaced()],
    ids=["plain", "bos", "chat", "spaced"],
)
def test_all_of_a_text_is_trained_on_but_what_nothing_predicts(tokenizer: Any, tmp_path: Path):
    """The independent rule: the tokenizer's own ids of the text, EOS behind, one label a shift."""
    groups = read_data(texts(tmp_path / "data.jsonl", [{"text": t} for t in LONG])).groups
    encoded = encode_groups(groups, tokenizer, max_length=None).groups
    for text, group in zip(LONG, encoded, strict=True):
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        (answer,) = group.completions
        assert list(group.prompt.tokens) == ids[:1]
        assert list(answer.tokens) == ids[1:]
        assert answer.mask is None


def test_a_text_that_ends_in_its_end_has_no_second(tmp_path: Path):
    tokenizer = byte_bpe(CHATML)
    for end in ("</s>", "<|im_end|>", "<|im_end|>\n"):
        groups = read_data(texts(tmp_path / "data.jsonl", [{"text": LONG[0] + end}])).groups
        found = encode_groups(groups, tokenizer, max_length=None)
        (answer,) = found.groups[0].completions
        assert tokenizer.convert_ids_to_tokens(answer.tokens.tolist())[-1] == end.strip()
        assert found.counts.plain == 0


def test_a_prompt_without_its_text_begins_anew(tmp_path: Path):
    groups = read_data(texts(tmp_path / "data.jsonl", [{"text": t} for t in LONG])).groups
    for tokenizer, start in ((byte_bpe(), "</s>"), (byte_bpe(bos=True), "<s>")):
        alone = encode_groups(groups.prompts(), tokenizer, max_length=None).groups
        begun = {tuple(tokenizer.convert_ids_to_tokens(g.prompt.tokens.tolist())) for g in alone}
        assert begun == {(start,)}


def test_long_texts_are_cut_or_counted(tmp_path: Path):
    groups = read_data(texts(tmp_path / "data.jsonl", [{"text": "a b " * 50}, {"text": "a"}]))
    kept = encode_groups(groups.groups, byte_bpe(), max_length=20)
    assert (kept.counts.kept, len(kept.counts.dropped)) == (1, 1)
    cut = encode_groups(groups.groups, byte_bpe(), max_length=20, truncation="keep-start")
    assert [len(g.prompt.tokens) + len(g.completions[0].tokens) for g in cut.groups] == [20, 2]


def test_texts_are_told_apart(tmp_path: Path):
    rows = [{"text": f"The same beginning, sixty letters and more of it, in every row. {k}"}
            for k in range(60)]  # fmt: skip
    data = read_data(texts(tmp_path / "data.jsonl", [*rows, rows[3]]))
    assert all(is_whole_text(g.prompt) for g in data.groups)
    assert len({prompt_key(g.prompt) for g in data.groups}) == 60
    assert data.notes.repeated_prompts == 1
    parts = split_groups(data.groups, {"train": 0.7, "held_out": 0.3})
    keys = [{prompt_key(g.prompt) for g in part} for part in parts.values()]
    assert all(keys)
    assert not keys[0] & keys[1]
    data.groups.write(tmp_path / "kept.parquet")
    again = Groups.read(tmp_path / "kept.parquet")
    assert [prompt_key(g.prompt) for g in again] == [prompt_key(g.prompt) for g in data.groups]


def test_sft_trains_on_texts_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    rows = [{"text": "".join(rng.choice(list(CHARACTERS), 12))} for _ in range(24)]
    data, source = texts(tmp_path / "texts.jsonl", rows), tiny.folder(tmp_path / "model")
    assert cli.main(["data", "check", str(data), "--model", str(source)]) in (0, 1)
    assert "format text" in capsys.readouterr().out
    words = ["--model", str(source), "--data", str(data), "--sampling.max_tokens", "4"]
    assert cli.main(["run", "sft", *words, "--dry_run"]) == 0
    assert "whole texts without a prompt, trained on from their first token" in (
        capsys.readouterr().out
    )
    short = ["--sft.steps", "2", "--sft.batch", "4", "--sizes.held_out_share", "0.3"]
    assert cli.main(["run", "sft", *words, *short, "--out", str(tmp_path / "run")]) == 0
    assert "loss of the" in capsys.readouterr().out
    assert cli.main(["run", "rlaif", *words, "--start", "model", "--dry_run"]) == 2
    assert "tandem run sft" in capsys.readouterr().err
