"""Published evaluations: their formulas on numbers worked out by hand, and their commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from jsonargparse import Namespace
from test_street_judges import chat, serving

import tiny
from tandem import cli
from tandem.cli.suites import find_readable_rows, read_suite
from tandem.data.formats import read_data
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.engines.language_models.openai import Server
from tandem.errors import ConfigError, DataError
from tandem.evaluation.suites import SUITES, alpaca_eval, find_suite, llmbar, rewardbench2, vicuna
from tandem.judges.llm import Labeller
from tandem.judges.reward_model import RewardModel
from tandem.runs.checkpoint import Checkpoint
from tandem.statistics import length_controlled


def ties(name: str, right: list[float], wrong: list[float]) -> Group:
    n = len(right)
    votes = tuple(Preference(i, n + j) for i in range(n) for j in range(len(wrong)))
    completions = tuple(Completion("x" * (k + 1)) for k in range(n + len(wrong)))
    prompt = Prompt(name, "q", meta={"subset": "Ties"})
    return Group(prompt, completions, np.array([*right, *wrong]), votes)


def test_the_formula_for_ties():
    """Two questions. One: gaps 2 and 1, spread .5. Two: gaps -1 and 3, spread 4."""
    ref = {"1": ties("ref:1", [3.0], [1.0, 0.0]), "2": ties("ref:2", [0.0], [1.0])}
    tied = {
        "1": ties("tied:1", [2.0, 2.5], [1.0, 0.5]),
        "2": ties("tied:2", [4.0, 8.0], [1.0, 0.0]),
    }
    found = rewardbench2.score_ties(ref, tied)
    assert (found.ref, found.tied) == (0.5, 1.0)
    assert (found.preferred, found.hard) == (0.5, 0.5)
    margin = (np.tanh(1 / 0.5 - 1) + np.tanh(-1 / 4 - 1)) / 2
    assert found.margin == pytest.approx(margin)
    assert found.overall == pytest.approx(0.3 * 0.5 + 0.3 + 0.1 + 0.1 + 0.01 * margin)
    same = rewardbench2.score_ties(
        {"1": ties("ref:1", [1.0], [0.0])}, {"1": ties("tied:1", [1.0, 1.0], [0.0])}
    )
    assert same.overall == pytest.approx(1.01), "no spread: an infinite ratio, as in their code"
    level = {"1": ties("ref:1", [0.0], [0.0])}, {"1": ties("tied:1", [1.0, 1.0], [1.0])}
    assert rewardbench2.score_ties(*level).margin == 0


def four(k: int, scores: list[float], subset: str = "Focus") -> Group:
    votes = tuple(Preference(0, j) for j in (1, 2, 3))
    lengths = (9, 5, 5, 5) if k % 2 else (2, 9, 5, 5)
    completions = tuple(Completion("x" * n) for n in lengths)
    return Group(Prompt(f"{subset}{k}", f"q{k}", meta={"subset": subset}), completions,
                 np.array(scores), votes)  # fmt: skip


def test_a_reward_beside_the_ruler():
    groups = [four(k, [1.0, 0.0, 0.0, 0.0]) for k in range(12)]
    groups += [four(k, [1.0, 1.0, 0.0, 0.0], "Math") for k in range(12)]
    groups += [ties(f"ref:{k}", [1.0], [0.0]) for k in range(12)]
    groups += [ties(f"tied:{k}", [1.0, 1.0], [0.0]) for k in range(12)]
    found = rewardbench2.score_rewards(groups)
    rows = {row["subset"]: row for row in found.numbers["subsets"]}
    assert [rows[s]["reward"]["mean"] for s in ("Focus", "Math", "Ties")] == [1.0, 0.5, 1.01]
    assert [rows[s]["ruler (length)"]["mean"] for s in ("Focus", "Math")] == [0.5, 0.5]
    assert rows["Focus"]["chance"] == 0.25
    assert found.numbers["mean"] == pytest.approx(2.51 / 3)
    gain = rows["Focus"]["reward - ruler"]
    assert gain["low"] < gain["mean"] == 0.5 < gain["high"]
    with pytest.raises(DataError, match="ids like"):
        rewardbench2.score_rewards([ties("a", [1.0], [0.0])])


def test_a_prompt_without_scores_is_counted_and_bounds_the_interval():
    groups = [four(k, [1.0, 0.0, 0.0, 0.0]) for k in range(14)]
    groups[3] = replace(groups[3], scores=None)
    groups += [replace(groups[0], preferences=()), ties("ref:9", [], [1.0])]
    found = rewardbench2.score_rewards(groups)
    (row,) = found.numbers["subsets"]
    assert (row["prompts"], row["unscored"], found.numbers["left_out"]) == (14, 1, 2)
    assert row["reward"]["mean"] == pytest.approx(13.5 / 14)
    assert row["reward"]["low"] < 13 / 14 < row["reward"]["high"] == 1
    assert "2 rows without" in found.text
    for bad, what in ((None, "needs a score"), (np.array([np.nan, 0, 0, 0]), "finite scores")):
        with pytest.raises(DataError, match=what):
            rewardbench2.score_rewards([replace(g, scores=bad) for g in groups[:2]])


def pair(k: int, subset: str, p: float) -> Group:
    prompt = Prompt(str(k), "q", meta={"subset": subset})
    return Group(prompt, (Completion("ab"), Completion("a" * (1 + 5 * (k % 2)))), None,
                 (Preference(0, 1, p),))  # fmt: skip


def test_natural_and_adversarial_pairs_apart():
    asked = [pair(k, "Natural" if k < 8 else "GPTInst", float(k % 3 > 0)) for k in range(20)]
    said = []
    for k, group in enumerate(asked):
        p = group.preferences[0].p if k < 8 else 1 - group.preferences[0].p
        said.append(Group(group.prompt, group.completions, None,
                          () if k == 9 else (Preference(0, 1, p),)))  # fmt: skip
    rows = {row["part"]: row for row in llmbar.score_labels(asked, said).numbers["parts"]}
    assert rows["natural"]["judge right"]["mean"] == 1.0
    hard = rows["adversarial gptinst"]
    assert hard["unreadable"] == 1
    assert hard["judge right"]["mean"] == pytest.approx(0.5 / 12)
    assert rows["all"]["pairs"] == 20


def test_a_win_rate_at_equal_length():
    answers = [Group(Prompt(str(k), "q", meta={"category": "math" if k % 2 else "writing"}),
                     (Completion("x" * (10 + 3 * (k % 5))),)) for k in range(60)]  # fmt: skip
    against = [Group(g.prompt, (Completion("x" * 10),)) for g in answers]
    credit = np.array([1.0 if len(g.completions[0].text) > 14 else 0.25 for g in answers])
    rows = {
        r["part"]: r
        for r in alpaca_eval.score_by_dataset(credit, answers, against).numbers["parts"]
    }
    gap = np.array([len(g.completions[0].text) - 10.0 for g in answers])
    assert rows["all"]["at equal length"]["mean"] == length_controlled(credit, gap).mean
    assert rows["all"]["at equal length"]["mean"] < rows["all"]["win rate"]["mean"]
    parts = vicuna.score_by_category(credit, answers, against).numbers["parts"]
    assert [row["part"] for row in parts] == ["all", "math", "writing"]


def test_suites_are_named(capsys):
    assert set(SUITES) == {"rewardbench2", "llmbar", "vicuna", "alpaca-eval"}
    with pytest.raises(ConfigError, match="rewardbench2"):
        find_suite("rewardbench")
    server = ["--judge", "http://127.0.0.1:9/v1"]
    for words in (["llmbar"], ["vicuna", *server], ["llmbar", *server, "--judge_model", "m"]):
        assert cli.main(["eval", "suite", *words]) == 2
        assert "give --" in capsys.readouterr().err
    assert cli.main(["eval", "suite", "rewardbench2", *server, "--judge_model", "m"]) == 2
    assert "a judge that compares" in capsys.readouterr().err


def test_the_command_asks_a_server_in_both_orders(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    rows = [{"input": f"Say {k}.", "output_1": f"{k}", "output_2": "I am sorry, I cannot do that.",
             "label": 1, "subset": "Natural"} for k in range(8)]  # fmt: skip
    data = tmp_path / "llmbar.json"
    data.write_text(json.dumps(rows))

    def short(_: str, body: dict) -> object:
        a, b = body["messages"][-1]["content"].split("### Answer B")
        first = "A" if "sorry" in b.split("### Task")[0] else "B"
        return chat(f"<think>{a[:5]} B</think>\nVerdict: {first}")

    with serving(short) as url:
        words = ["--judge", f"{url}/v1", "--judge_model", "m", "--data", str(data), "--json"]
        assert cli.main(["eval", "suite", "llmbar", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"][0]["judge right"]["mean"] == 1.0
    assert told["parts"][0]["longer output right"]["mean"] == 0.0
    assert [row["part"] for row in told["parts"]] == ["natural"], "one part is not all of it again"


def test_the_parts_of_llmbar_are_its_folders(tmp_path: Path):
    rows = [{"input": "Say it.", "output_1": "it", "output_2": "no", "label": 1}]
    for part in ("Natural", "Adversarial/GPTInst", "Adversarial/Manual"):
        (tmp_path / part / "evaluators").mkdir(parents=True)
        (tmp_path / part / "dataset.json").write_text(json.dumps(rows))
        (tmp_path / part / "evaluators" / "result.json").write_text("[{}]")
    options = Namespace(data=str(tmp_path), columns="", split="", format="", limit=0)
    groups, lines = read_suite(find_suite("llmbar"), options)
    assert [g.prompt.meta["subset"] for g in groups] == ["GPTInst", "Manual", "Natural"]
    assert len({g.id for g in groups}) == 3
    assert lines[0].startswith("GPTInst: 1 rows read")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "missing/found.json"], "--out missing/found.json"),
        (["--out", "."], "--out ."),
        (["--reference", "runs/a"], "no policy answers"),
        (["--sampling.max_tokens", "9"], "no policy answers"),
    ],
)
def test_what_a_suite_cannot_use_is_refused_before_anybody_is_asked(words, said, capsys):
    judge = ["--judge", "http://127.0.0.1:9/r", "--judge_kind", "rewards"]
    assert cli.main(["eval", "suite", "rewardbench2", *judge, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_local_reward_reads_rows_whole_or_not_at_all(tmp_path: Path):
    tiny.folder(tmp_path, auto=hf.AutoModelForSequenceClassification, num_labels=1,
                max_position_embeddings=12)  # fmt: skip
    reward = RewardModel(Checkpoint(tmp_path))
    asked = Groups.of(
        Group(Prompt(str(n), "abcd"), (Completion("a"), Completion("b" * n))) for n in (2, 7, 8, 30)
    )
    assert find_readable_rows(asked, reward).tolist() == [True, True, False, False]
    assert find_readable_rows(asked, Labeller(Server("m", "http://x/v1", None))).all()


def test_alpaca_eval_asks_a_policy(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    tiny.folder(tmp_path / "policy")
    rows = [{"prompt": "abc", "completion": "defg"}, {"prompt": "bcd", "completion": "efgh"}]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_data(data).format == "prompt-completion"
    lengths = lambda path, body: {  # noqa: E731
        "scores": [float(len(x["answer"])) for x in body["inputs"]]
    }
    with serving(lengths) as url:
        words = ["--model", str(tmp_path / "policy"), "--data", str(data), "--judge",
                 f"{url}/r", "--judge_kind", "rewards", "--sampling.max_tokens", "3"]  # fmt: skip
        assert cli.main(["eval", "suite", "alpaca-eval", *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any("at equal length" in line and line.endswith("opponent's cut") for line in told)
    assert told[-1].split()[-2:] == ["2", "0"], "three tokens are no whole answer"
