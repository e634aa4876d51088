"""Exams with known truth in, `results.json` out: claims, Holm, the matrix, what a report shows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pages
import rest_figure
from tandem.bench import Claim, Entry, Finished, Plan, collect_results, remake_statistics
from tandem.bench.details import curves_by_round
from tandem.bench.finished import FAILED, JUDGED, NEEDED
from tandem.bench.outcomes import Outcomes, read_outcomes, write_outcomes
from tandem.bench.progress import describe_seed, scale_costs
from tandem.bench.results import ABOUT, restate_results
from tandem.bench.table import results_table
from tandem.cli.bench import verdict_lines
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import DataError, RunError
from tandem.report import write_report
from tandem.report.views import claims_view
from tandem.runs.atomic_files import write_json
from tandem.runs.display import Hidden
from tandem.runs.names import folder_name
from tandem.runs.run import Run
from tandem.statistics import holm, paired_difference
from tandem.tasks import Sizes

SEEDS, PROMPTS = 3, 60
GAINS = {"base": -1.0, "SFT": 0.0, "better": 0.8, "same": 0.0, "worse": -0.8}
PLAN = Plan(
    title="invented numbers",
    question="Are known truths found?",
    entries=(
        Entry("better", "dpo", {}, paper={"win": 70.0}),
        Entry("same", "best_of_n", {}),
        Entry("worse", "ppo", {}),
        Entry("fails", "kto", {}),
    ),
    seeds=tuple(range(SEEDS)),
    sizes=Sizes(),
    claims=(
        Claim("SFT", "better"),
        Claim("SFT", "same"),
        Claim("SFT", "worse"),
        Claim("SFT", "fails"),
    ),
    task="micro",
)


def given(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """An exam whose numbers were decided beforehand."""
    return columns


def said(texts: list[str]) -> Groups:
    """Answers whose texts were decided beforehand."""
    tokens = np.array([1], np.int32)
    return Groups.of(
        Group(Prompt(f"p{k}", f"post {k}", tokens=tokens), (Completion(text, tokens),))
        for k, text in enumerate(texts)
    )


def priced(seed: int) -> dict[str, Any]:
    """Best-of-n's curve as the method writes it."""
    rows = [
        {"n": n, "KL at most": kl, "proxy": {"mean": n + seed}, "truth": {"mean": 2.0 * seed}}
        for n, kl in ((1, 0.0), (2, 0.19))
    ]
    return {"text": "", "numbers": rows}


def truths(seed: int) -> dict[str, np.ndarray]:
    level = np.random.default_rng(99).normal(0, 1, PROMPTS)
    rng = np.random.default_rng(seed)
    return {n: level + g + rng.normal(0, 0.5, PROMPTS) for n, g in GAINS.items()}


def examined(name: str, truth: np.ndarray) -> dict[str, list[float]]:
    columns = {"truth": truth, "proxy": -truth, "length": 10 + np.round(truth), "kl": truth**2}
    if name != "SFT":
        columns["annotator_win"] = (truth > 0) * 1.0
    return {k: [float(x) for x in v] for k, v in columns.items()}


def write_seed(out: Path, seed: int, names: tuple[str, ...] = tuple(GAINS)) -> None:
    numbers = truths(seed)
    with Run(PLAN.folder(out, seed), seed, display=Hidden()) as run:
        for name in names:
            scope = run.scope(folder_name(name), run.seed)
            scope("answers", said, [f"{name} {k} !{'!' * (k % 2)}" for k in range(PROMPTS)])
            if name == "same":
                scope("curve", priced, seed)
            scope(JUDGED, given, examined(name, numbers[name]))
            write_json(scope.path / NEEDED, {"stages": ["answers"]})
        if len(names) == len(GAINS):
            failed = run.scope("fails", run.seed)
            write_json(failed.path / FAILED, {"reason": "the moon is missing"})
        climbing = {"stage": "worse/01-answers", "kl": 0.1, "proxy": 1.0}
        for at in (0, 1, 1):
            run.events.log("watch", round=at, **climbing)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bench")
    for seed in range(SEEDS):
        write_seed(place, seed)
    return place


def exclamations(group: Group) -> float:
    return float(group.completions[0].text.count("!"))


@pytest.fixture(scope="module")
def told(out) -> dict[str, Any]:
    return collect_results(PLAN, out, "tandem bench invented.toml", {"invented": exclamations})


def row(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(p for p in told["policies"] if p["policy"] == name)


def test_claims_are_judged_with_holm_over_all_of_them(told):
    each = [truths(s) for s in range(SEEDS)]
    gains = [
        paired_difference(np.array([t[c.b] for t in each]), np.array([t[c.a] for t in each]))
        for c in PLAN.claims[:3]
    ]
    adjusted = holm([*(g.p_value for g in gains), 1.0])  # a claim about what failed was made too
    standing = ["resolved", "not resolved", "reversed", "not measured"]
    assert [r["verdict"] for r in told["order"]] == standing
    assert [r["holm_p"] for r in told["order"]] == pytest.approx(list(adjusted))
    assert told["order"][0]["gain"]["mean"] == pytest.approx(gains[0].mean)
    assert told["order"][1]["needs"] > 0
    assert "not measured: SFT < fails, Holm p 1" in results_table(told)
    assert [r["verdict"] for r in claims_view(told)] == standing
    assert "| `SFT < fails` | - | - | 1 | not measured | - |" in pages.page(
        told | {"date": "today"}, "x"
    )


def test_the_table_has_every_policy_with_its_numbers(told):
    assert [p["policy"] for p in told["policies"]] == [
        "base", "SFT", "better", "same", "worse", "fails",
    ]  # fmt: skip
    better, sft = row(told, "better"), row(told, "SFT")
    assert better["truth gain"]["mean"] == pytest.approx(0.8, abs=0.15)
    assert better["win vs SFT"]["mean"] > 0.7 > row(told, "worse")["win vs SFT"]["mean"]
    assert better["proxy_win"]["mean"] == pytest.approx(1 - better["win vs SFT"]["mean"])
    assert (better["paper"], better["method"]) == ({"win": 70.0}, "dpo")
    assert len(better["per_seed"]["truth gain"]) == SEEDS
    assert "win vs SFT" not in sft or sft["win vs SFT"] is None
    assert sft["seconds"]["mean"] >= 0


def test_what_a_task_can_count_is_a_column(told):
    """Answer k has one sign more where k is odd: 1.5 on average."""
    assert row(told, "better")["invented"]["mean"] == pytest.approx(1.5)


def test_every_statistic_is_made_again_from_the_outcomes(told, out):
    """Numbers, claims, matrix and wins by length come out the same; nothing is sampled."""
    write_json(out / "results.json", told)
    again = remake_statistics(out)
    assert json.dumps(again, sort_keys=True) == json.dumps(told, sort_keys=True)
    spoiled = dict(told) | {"matrix": {}, "order": told["order"][:1]}
    spoiled["policies"] = [
        p if p["status"] == "failed" else {k: p[k] for k in ABOUT if k in p}
        for p in told["policies"]
    ]
    write_json(out / "results.json", spoiled)
    again = remake_statistics(out)
    assert again["matrix"] == told["matrix"]
    assert again["policies"] == told["policies"]
    assert [c["claim"] for c in again["order"]] == [c["claim"] for c in told["order"][:1]]


def test_outcomes_survive_parquet(told, out, tmp_path):
    """Every number as it was, and columns that a policy lacks stay absent."""
    found = Finished(PLAN, out, {"invented": exclamations}).outcomes
    read = read_outcomes(write_outcomes(found, tmp_path / "outcomes.parquet"))
    assert (read.seeds, read.prompts) == (found.seeds, found.prompts)
    assert read.columns.keys() == found.columns.keys()
    for name, own in found.columns.items():
        assert read.columns[name].keys() == own.keys()
        for column, numbers in own.items():
            assert np.array_equal(read.columns[name][column], numbers)
    assert "annotator_win" not in read.columns["SFT"]


def test_outcomes_that_do_not_fit_are_refused(told, out, tmp_path):
    found = Finished(PLAN, out, {}).outcomes
    file = write_outcomes(replace(found, columns={"SFT": found.main}), tmp_path / "few.parquet")
    write_json(tmp_path / "results.json", told)
    with pytest.raises(DataError, match="no outcomes of 'base'"):
        remake_statistics(tmp_path, file)
    with pytest.raises(DataError, match=r"outcomes\.parquet cannot be read"):
        remake_statistics(tmp_path)
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(DataError, match="cannot be read"):
        read_outcomes(tmp_path / "text.parquet")
    table = pq.read_table(file)
    pq.write_table(table.slice(1), tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="not every seed with every prompt"):
        read_outcomes(tmp_path / "cut.parquet")
    pq.write_table(table.drop(["seed"]), tmp_path / "lacking.parquet")
    with pytest.raises(DataError, match="no column 'seed'"):
        read_outcomes(tmp_path / "lacking.parquet")
    with pytest.raises(DataError, match="holds no results"):
        remake_statistics(tmp_path / "nowhere.json")


def test_a_seed_that_diverged_is_named_in_row_report_and_verdict(out, tmp_path):
    """`better` falls by 30 in seed 2 of 3: it is named, and its row is not resolved."""
    found = Finished(PLAN, out, {}).outcomes
    columns = {name: dict(own) for name, own in found.columns.items()}
    fallen = columns["better"]["truth"].copy()
    fallen[2] -= 30
    columns["better"]["truth"] = fallen
    told = restate_results(json.loads((out / "results.json").read_text()),
                           replace(found, columns=columns))  # fmt: skip
    assert row(told, "better")["deviant_seeds"] == [2]
    assert row(told, "same")["deviant_seeds"] == []
    assert "better: seed 2 out of line." in verdict_lines(told)
    write_json(tmp_path / "results.json", told)
    assert "out of line: seed 2" in write_report(tmp_path).read_text(encoding="utf-8")
    assert any("about normal" in limit for limit in told["limits"])


def test_the_rate_at_equal_length_is_over_seeds_too(told):
    """The same estimate as a plain win rate where length says nothing, with the same seeds."""
    assert row(told, "better")["lc_win"]["seeds"] == SEEDS


def test_a_failed_method_is_a_row_with_its_reason(told):
    failed = row(told, "fails")
    assert (failed["status"], failed["reason"]) == ("failed", "seed 0: the moon is missing")
    assert "truth" not in failed
    assert "fails failed: seed 0: the moon is missing" in results_table(told)
    assert "fails" not in told["matrix"]["names"]
    assert any("fails failed" in line for line in told["limits"])


def test_what_is_known_after_two_methods_is_their_part_of_the_table(out, told):
    """A seed at work: rows of what ended, none of what is still to come, as at the end."""
    said = describe_seed(PLAN, out, 1, 2)
    assert re.search(r"\n2 of 4 methods are done, about 0\.\d s left$", said)
    assert "better" in said
    assert "worse" not in said
    alone = replace(PLAN, seeds=(1,), entries=PLAN.entries[:2], claims=())
    whole = collect_results(alone, out, "again")
    table = results_table(whole | {"order": []})
    assert said.startswith(table)
    collect_results(PLAN, out, "as before", {"invented": exclamations})


@pytest.mark.parametrize(
    ("costs", "left", "seconds"),
    [
        ({"SFT": 10.0, "DPO": 20.0, "PPO": 60.0}, ["PPO"], 120.0),
        ({"SFT": 10.0, "DPO": 20.0}, ["PPO", "KTO"], 120.0),
        ({}, ["PPO"], 60.0),
        ({"SFT": 10.0, "DPO": 20.0}, [], 0.0),
    ],
)
def test_the_rest_is_scaled_by_what_was_done(costs, left, seconds):
    """SFT and DPO took twice what they cost where it was measured: 60 s in all."""
    assert scale_costs(costs, ["base", "SFT", "DPO"], left, took=60.0) == seconds


def test_nobody_knows_how_long_a_first_method_takes():
    assert scale_costs({}, ["base", "SFT"], ["DPO"], took=9.0) is None


def test_the_matrix_adds_up_to_one(told):
    matrix, n = told["matrix"], len(GAINS)
    assert matrix["names"] == list(GAINS)
    for i in range(n):
        assert matrix["win"][i][i] is None
        for j in range(i):
            both = matrix["win"][i][j]["mean"] + matrix["win"][j][i]["mean"]
            assert both == pytest.approx(1)
            assert matrix["holm_p"][i][j] == matrix["holm_p"][j][i]


def test_best_of_n_is_averaged_over_seeds(told):
    """proxy is n + seed and truth 2 seed; the seeds are 0, 1, 2."""
    assert told["bon"] == [
        {"n": 1, "kl": 0.0, "proxy": 2.0, "truth": 2.0},
        {"n": 2, "kl": 0.19, "proxy": 3.0, "truth": 2.0},
    ]


def test_length_is_laid_against_the_proxy(told):
    """Length rises with truth and proxy falls: the longer an answer, the rarer it wins."""
    bias = told["length_bias"]
    wins = [part["win"]["mean"] for part in bias["by_difference"]]
    assert bias["by"] == "proxy"
    assert wins == sorted(wins, reverse=True)
    assert sum(part["n"] for part in bias["by_difference"]) == 4 * SEEDS * PROMPTS
    assert {point["policy"] for point in bias["scatter"]} == set(GAINS)


def test_a_round_that_was_said_twice_is_one_point(told):
    (curve,) = [c for c in told["curves"] if c["seed"] == 1]
    assert (curve["policy"], [p["round"] for p in curve["points"]]) == ("worse", [0, 1])
    late = [{"round": 1, "kl": 5}, {"round": 0, "kl": 1}, {"round": 1, "kl": 2}]
    assert curves_by_round(late) == [{"round": 0, "kl": 1}, {"round": 1, "kl": 2}]


def test_samples_stand_side_by_side_with_their_scores(told):
    first = told["samples"][0]
    assert [a["policy"] for a in first["answers"]] == list(GAINS)
    assert first["answers"][2]["text"] == "better 0 !"
    assert first["answers"][2]["truth"] == pytest.approx(truths(0)["better"][0])


def test_limits_come_from_the_facts(told, out):
    every = " ".join(told["limits"])
    assert "errs on 25 %" in every or "errs on 25%" in every
    assert "gold_rm" not in every  # nobody with that name judged
    assert "best-of-n is its bound" in every
    assert "not finished" not in every
    longer = Plan(**{f: getattr(PLAN, f) for f in PLAN.__dataclass_fields__} | {"seeds": range(5)})
    assert (
        "2 of 5 planned seeds are not finished." in collect_results(longer, out, "")["limits"][-1]
    )


def test_an_unfinished_seed_is_left_out(tmp_path):
    write_seed(tmp_path, 0)
    write_seed(tmp_path, 1, ("base", "SFT"))
    found = Finished(PLAN, tmp_path, {})
    assert (found.seeds, found.begun) == ([0], [1])


def test_nothing_finished_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no seed of 'invented numbers' is finished"):
        collect_results(PLAN, tmp_path, "")


def test_the_verdict_and_the_page_follow(told, tmp_path):
    assert verdict_lines(told).startswith("better beats SFT.")
    write_json(tmp_path / "results.json", told)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "the moon is missing" in page
    assert "1 million" in page or "million parameters" in page
    assert page.count("<svg") >= 2


def test_a_page_is_made_again_from_outcomes(told, out, tmp_path):
    """`pages.py --again` mends a JSON whose numbers were spoiled, where outcomes lie beside it."""
    write_json(out / "results.json", told)
    pages.main([str(out), "--name", "x", "--out", str(tmp_path)])
    page, numbers = tmp_path / "x.md", json.loads((tmp_path / "x.json").read_text())
    first = page.read_text()
    assert "docs/adr/0018" in first
    row(numbers, "better")["win vs SFT"] = None
    write_json(tmp_path / "x.json", numbers)
    pages.main(["--again", "--out", str(tmp_path)])
    assert page.read_text() == first


def test_steps_of_rest_are_tested_by_the_reward_and_by_the_truth():
    """The reward rises with every step, the truth does not: the page says both."""
    rng, shape = np.random.default_rng(0), (4, 60)
    names = ["SFT", "ReST G1 I0", "ReST G1 I1", "ReST G1 I2", "ReST G2 I1", "PPO"]
    columns = {
        name: {"proxy": k + rng.normal(size=shape), "truth": rng.normal(size=shape)}
        for k, name in enumerate(names)
    }
    outcomes = Outcomes(list(range(4)), [f"p{k}" for k in range(60)], columns)
    steps = {s["claim"]: s for s in rest_figure.judge_steps(outcomes, "proxy")}
    assert list(steps) == [
        "SFT < ReST G1 I0", "ReST G1 I0 < ReST G1 I1", "ReST G1 I1 < ReST G1 I2",
        "ReST G1 I1 < ReST G2 I1",
    ]  # fmt: skip
    assert {s["verdict"] for s in steps.values()} == {"resolved"}
    assert steps["ReST G1 I1 < ReST G2 I1"]["gain"]["mean"] == pytest.approx(2, abs=0.3)
    true = rest_figure.judge_steps(outcomes, "truth")
    assert {s["verdict"] for s in true} == {"not resolved"}
