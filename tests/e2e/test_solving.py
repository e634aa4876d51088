"""`tandem run lmsi|star|direct` from a model and a GSM8K file to the table of accuracies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tandem import cli
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.data.verifiable import StatedAnswer
from tandem.errors import DataError
from tandem.evaluation import accuracy_evaluation
from tandem.judges.answer_key import AnswerKey
from tandem.machine import Machine
from tandem.stages.evaluate_solutions import DecodingRule, evaluate_solutions
from worlds import markov_model

WORDS = ["<pad>", "<bos>", "<eos>", "A:", "####", "7", "8"]
FAST = [
    "--sampling.max_tokens=4", "--machine.precision=fp32", "--sizes.held_out_share=0.3",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers every question with 7 (.6) or 8 (.4)."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    laws = {
        "A:": {"####": 1.0},
        "####": {"7": 0.6, "8": 0.4},
        "7": {"<eos>": 1.0},
        "8": {"<eos>": 1.0},
    }
    return markov_model(tmp_path_factory.mktemp("model"), laws, words, positions=512)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 questions; 7 is right for three in four."""
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"q {n} ?", "answer": f"so\n#### {8 if n % 4 == 0 else 7}"}
            for n in range(40)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


SETTINGS = {
    "lmsi": ["--lmsi.m=5", "--lmsi.sft.steps=3", "--lmsi.sft.batch=4"],
    "star": ["--star.loops=1", "--star.steps=3"],
    "direct": ["--direct.sft.steps=3"],
}


@pytest.mark.parametrize("method", SETTINGS)
def test_a_solver_ends_with_its_accuracies(method: str, model: Path, data: Path, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]):  # fmt: skip
    words = ["run", method, "--model", str(model), "--data", str(data), *FAST, *SETTINGS[method]]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "right answers, %" in told
    assert "more than base, paired by prompt" in told
    assert all(decoder in told for decoder in ("greedy", "sampled", "vote-0.7", "vote-1.2"))


def test_star_without_a_gain_is_the_base(model: Path, data: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]):  # fmt: skip
    """At a rate of 1e-6 three steps change no greedy answer: loop 2 sees a plateau and ends."""
    words = ["run", "star", "--model", str(model), "--data", str(data), *FAST, "--star.steps=3"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "right answers, %" in told.out
    assert "model-1  done" in told.err
    assert f"no gain: {model.name} is kept, " in told.err
    assert "model-2" not in told.err
    assert not list((tmp_path / "run").glob("*tried-3"))


def test_a_task_without_answers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["run", "lmsi", "--task", "micro", "--out", str(tmp_path / "run")]
    small = ["--sizes.prompts=4", "--sizes.evaluation=4", "--sizes.demonstrations=4"]
    assert cli.main([*words, *small]) == 2
    assert "no questions with one checkable answer" in capsys.readouterr().err


def answered(*rows: str) -> Groups:
    return Groups.of(
        Group(
            Prompt(f"q{i}", "?", meta={"answer": 1, "stratum": i % 2}),
            tuple(Completion(f"#### {a}") for a in row),
        )
        for i, row in enumerate(rows)
    )


def test_marks_by_decoder_stratum_and_plurality():
    """Four questions, three answers each; right is 1.

    base votes 1, 1, 0, 0: right in half. `new` votes 1, 1, 1, 0. The vote must not know what is
    right: in the third question 0 and 1 tie for `tie`, 0 comes first, and 0 it is.
    """
    decoders = {"sampled": DecodingRule(3, 1.0), "vote": DecodingRule(3, 0.7, vote=True)}
    base = answered("110", "111", "001", "000")
    new = answered("111", "111", "101", "001")
    tie = answered("111", "111", "01x", "000")
    answers = {
        n: dict.fromkeys(decoders, g) for n, g in {"base": base, "new": new, "tie": tie}.items()
    }
    read = StatedAnswer()
    exam = evaluate_solutions(
        answers, decoders, read=read, truth=AnswerKey(read), machine=Machine(device="cpu")
    )
    assert exam["solved"]["base"]["sampled"] == pytest.approx([2 / 3, 1, 1 / 3, 0])
    assert exam["solved"]["base"]["vote"] == [1, 1, 0, 0]
    assert exam["solved"]["new"]["vote"] == [1, 1, 1, 0]
    assert exam["solved"]["tie"]["vote"] == [1, 1, 0, 0]
    assert exam["parts"]["plurality right"] == [True, True, False, False]
    assert exam["parts"]["stratum 1"] == [False, True, False, True]
    (gain,) = [
        row for row in exam["numbers"]["gain"] if (row["policy"], row["decoder"]) == ("new", "vote")
    ]
    assert gain["all (4)"]["mean"] == pytest.approx(25)
    assert gain["plurality wrong (2)"]["mean"] == pytest.approx(50)
    assert gain["plurality right (2)"]["mean"] == 0


def test_one_seed_of_the_opponent_meets_all_seeds():
    solved = {
        "base": {"greedy": np.array([0.0, 1.0, 0.0])},
        "new": {"greedy": np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])},
    }
    parts = {"all": np.ones(3, bool), "lone": np.array([True, False, False])}
    found = accuracy_evaluation(solved, parts, opponent="base")
    assert found.gain["new", "greedy"]["all"].mean == pytest.approx(1 / 6)
    assert found.gain["new", "greedy"]["all"].seeds == 2
    lone = found.gain["new", "greedy"]["lone"]
    assert lone.mean == 1
    assert np.isnan(lone.low), "one prompt says nothing about other prompts"
    with pytest.raises(DataError, match="no policy `sft`"):
        accuracy_evaluation(solved, parts, opponent="sft")
