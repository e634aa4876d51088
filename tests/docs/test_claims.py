"""The registry of claims: verdicts come from outcomes, and what was not run says how it is run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import claims
import findings
import world
from claims import REGISTRY, claim_verdict, judge_registry, paper_error, read_registry
from evidence import Store, follow_path, kendall_tau, missing_paths, slope_weights, weigh_test
from tandem.bench.outcomes import Outcomes, write_outcomes
from tandem.methods import METHODS
from tandem.statistics import paired_difference

ROOT = Path(__file__).parents[2]
WORTH = {"SFT": (0.0, 0.0), "up": (0.6, 0.6), "down": (-0.6, 0.6), "same": (0.0, 0.0)}
"""Policy -> how much more than SFT by the truth, and by the proxy."""
MADE = """
[files.made]
command = "tandem bench made.toml"
[files.later]
command = "python later.py"
[papers.p]
title = "Paper"
link = "https://example.org/p"
"""


def write_registry(path: Path, tests: dict[str, str]) -> Path:
    """A registry with one claim a name; its tests are lines of TOML."""
    text = MADE + "".join(
        f'\n[[claim]]\nid = "{name}"\npaper = "p"\nplace = "table 1"\nsays = "{name} is better."\n'
        f'shows = "More."\nprinted = [["set", 46.8, 50.2, "% wins", 805]]\ntest = [{told}]\n'
        for name, told in tests.items()
    )
    path.write_text(text)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Outcomes of a made-up comparison: five seeds that meet sixty prompts."""
    rng, shape = np.random.default_rng(3), (5, 60)
    prompt = rng.normal(0, 1, shape[1])
    columns = {
        name: {
            "truth": true + prompt + rng.normal(0, 0.5, shape),
            "proxy": proxy + prompt + rng.normal(0, 0.5, shape),
        }
        for name, (true, proxy) in WORTH.items()
    }
    outcomes = Outcomes(list(range(5)), [f"p{k}" for k in range(60)], columns)
    write_outcomes(outcomes, tmp_path / "made.parquet")
    rows = [
        {"policy": n, "per_seed": {k: x.mean(axis=1).tolist() for k, x in own.items()}}
        for n, own in columns.items()
    ]
    told = {"policies": rows, "date": "2026-01-02", "intervals": "docs/adr/0018"}
    (tmp_path / "made.json").write_text(json.dumps(told))
    return Store(tmp_path)


def row(less: str, more: str, by: str = "truth") -> str:
    return f'{{file = "made", label = "{by}", less = "{less}", more = "{more}", by = "{by}"}}'


def test_claims_hold_fail_and_stay_open(store: Store, tmp_path: Path):
    tests = {
        "good": row("SFT", "up"),
        "bad": row("SFT", "down"),
        "open": row("SFT", "same"),
        "mixed": row("SFT", "down", "proxy") + ", " + row("SFT", "down"),
        "trend": '{file = "made", label = "t", rows = ["down", "same", "up"], by = "truth"}',
        "rank": '{file = "made", label = "r", rank = "truth", as = "truth"}',
        "later": '{file = "later", label = "l", low = ["a"], high = ["b"]}',
    }
    registry = read_registry(write_registry(tmp_path / "claims.toml", tests))
    judged = judge_registry(registry, store)
    assert {name: claim_verdict(own) for name, own in judged.items()} == {
        "good": "holds", "bad": "fails", "open": "not resolved", "mixed": "holds when",
        "trend": "holds", "rank": "not resolved", "later": "not run yet",
    }  # fmt: skip
    assert judged["rank"][0].evidence.kind == "seeds"
    page = claims.claims_page(registry, judged)
    assert "**7 claims:** 2 holds, 1 holds when, 1 fails, 2 not resolved, 1 not run yet." in page
    assert "**Holds when: proxy; fails when: truth.**" in page
    later = page.split("### later")[1]
    assert "later: there is no later.json" in later
    assert "`python later.py`" in later
    assert "| set | 46.8 | 50.2 % wins | +3.4 | 805 | 2.49 | 1.4 |" in page


def test_tests_that_were_not_run_stand_beside_the_verdict(store: Store, tmp_path: Path):
    later = '{file = "later", label = "l", low = ["a"], high = ["b"]}'
    path = write_registry(tmp_path / "claims.toml", {"some": f"{row('SFT', 'up')}, {later}"})
    tests = judge_registry(read_registry(path), store)["some"]
    assert claims.spell_verdict(tests) == "holds (1 of 2 tests run)"
    assert claims.spell_cases(tests) == "holds"


def test_an_estimate_that_was_stored_decides_with_its_own_correction(tmp_path: Path):
    """The page of the experiment and that of the claims say the same of a difference."""
    found = {"mean": 0.6, "low": 0.2, "high": 1.0, "p_value": 0.014, "n": 200, "seeds": 5}
    rows = [{"a": found | {"holm_p": 0.06}}, {"gain": found, "holm_p": 0.06}, found]
    (tmp_path / "later.json").write_text(json.dumps({"rows": rows, "date": "2026-01-02"}))
    for k, path in enumerate((["rows", 0, "a"], ["rows", 1], ["rows", 2])):
        up, down = (
            weigh_test({"file": "later", "label": "l", key: path}, Store(tmp_path))
            for key in ("gain", "loss")
        )
        assert up.estimate is not None
        assert down.estimate is not None
        assert (up.kind, up.old) == ("estimate", True)
        assert up.adjusted == (k < 2)
        assert up.estimate.p_value == (0.06 if k < 2 else 0.014)
        assert (down.estimate.mean, down.estimate.low, down.estimate.high) == (-0.6, -1.0, -0.2)


def test_one_number_a_seed_is_marked_as_over_seeds_alone(tmp_path: Path):
    test = {"file": "later", "label": "l", "low": ["a"], "high": ["b"]}
    for day, old in ({"date": "2026-01-02"}, True), ({}, False):
        told = {"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 3.5], **day}
        (tmp_path / "later.json").write_text(json.dumps(told))
        found = weigh_test(test, Store(tmp_path))
        assert (found.kind, found.old) == ("seeds", old)


def test_a_verdict_that_could_not_be_read_leaves_no_interval(store: Store):
    outcomes = store.outcomes("made")
    assert outcomes is not None
    outcomes.columns["up"]["truth"][0, 0] = np.nan
    found = weigh_test(tomllib.loads("t = " + row("SFT", "up"))["t"], store).estimate
    assert found is not None
    assert np.isnan(found.low)
    assert "nan at seed 0, prompt 0" in found.method


def test_the_number_is_that_of_the_outcomes_crossed(store: Store):
    outcomes = store.outcomes("made")
    assert outcomes is not None
    mine, theirs = (outcomes.columns[n]["truth"] for n in ("up", "SFT"))
    test = tomllib.loads("t = " + row("SFT", "up"))["t"]
    found = weigh_test(test, store)
    assert found.kind == "outcomes"
    assert not found.old
    assert found.estimate == paired_difference(mine, theirs)


def test_without_outcomes_the_seeds_means_decide_and_it_is_said(store: Store):
    (store.folder / "made.parquet").unlink()
    found = weigh_test(tomllib.loads("t = " + row("SFT", "up"))["t"], store)
    assert (found.kind, found.old, found.day) == ("means", True, "2026-01-02")
    assert found.estimate is not None
    assert found.estimate.method == "t over seeds"


def test_a_judge_that_was_no_gold_has_no_say(store: Store):
    (store.folder / "made.parquet").unlink()
    told = json.loads((store.folder / "made.json").read_text())
    for policy in told["policies"]:
        policy["per_seed"]["gold_rm"] = policy["per_seed"]["proxy"]
    (store.folder / "made.json").write_text(json.dumps(told))
    found = weigh_test(tomllib.loads("t = " + row("SFT", "up", "gold_rm"))["t"], store)
    assert found.estimate is None
    assert "gold_rm" in found.missing


def test_holm_runs_over_a_family(store: Store, tmp_path: Path):
    """The same test, alone and beside nine others: its p-value is ten times as large."""

    def first(many: int) -> claims.Judged:
        tests = {f"c{k}": row("SFT", "same") for k in range(many)}
        registry = read_registry(write_registry(tmp_path / f"{many}.toml", tests))
        return judge_registry(registry, store)["c0"][0]

    alone, among = first(1), first(10)
    assert alone.evidence.estimate is not None
    assert alone.p == alone.evidence.estimate.p_value
    assert among.p == pytest.approx(min(1.0, 10 * alone.p))


def test_papers_errors_are_those_of_two_shares():
    assert (50.2 - 46.8) / paper_error(46.8, 50.2, 805) == pytest.approx(1.37, abs=0.01)
    assert paper_error(50, 50, 100) == pytest.approx(5 * 2**0.5)
    assert claims.spell_printed(["x", 1.0, 2.0, "reward", 100])[-1] == "-"
    assert claims.spell_printed(["x", 84.35, 92.37, "% wins", -6000])[-3:] == [
        "at most 6,000", "at least 0.58", "at most 13.8",
    ]  # fmt: skip


def test_paths_and_contrasts():
    found = {"a": [{"n": 1, "x": [1, 2]}, {"n": 2, "x": [3, 4]}], "b": {"s": [5], "t": [6]}}
    assert follow_path(found, ["a", {"n": 2}, "x", -1]) == 4
    assert follow_path(found, ["a", "*", "x", 0]) == [1, 3]
    assert follow_path(found, ["b", "*", 0]) == [5, 6]
    assert slope_weights(2).tolist() == [-1, 1]
    assert slope_weights(4) @ np.array([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2)
    a = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert kendall_tau(a, a * [1, -1]).tolist() == [1, -1]


def test_seeds_that_have_both_decide(tmp_path: Path):
    """A seed that is half done is left out, of both sides."""
    seeds = {"0": {"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 3.5]}, "1": {"a": [0.0, 0.0, 9.0]}}
    seeds["2"] = {"a": [1.0, 1.0, 1.0], "b": [2.0, 3.0, 1.0]}
    (tmp_path / "later.json").write_text(json.dumps(seeds))
    test = {"file": "later", "label": "l", "low": ["*", "a"], "high": ["*", "b"]}
    found = weigh_test(test, Store(tmp_path)).estimate
    assert found is not None
    assert (found.seeds, found.n) == (2, 3)
    assert found.mean == pytest.approx(np.mean([1, 2, 0.5, 1, 2, 0]))
    gone = weigh_test(test | {"high": ["*", "c"]}, Store(tmp_path))
    assert gone.missing == "no seed has both"


def test_the_committed_page_is_made_from_the_committed_outcomes(capsys):
    assert claims.main(["--check"]) == 0, capsys.readouterr().err


def test_every_test_names_what_is_there():
    """Rows are those of the plan, and paths lead somewhere in files that exist."""
    registry = read_registry(REGISTRY)
    assert len(registry["claim"]) >= 25
    assert {m for c in registry["claim"] for m in c.get("methods", ())} <= set(METHODS)
    tests = [t for c in registry["claim"] for t in c["test"]]
    assert list(missing_paths(tests, Store(claims.DOCS / "results"))) == []
    for test in tests:
        if "by" in test:
            plan = tomllib.loads((ROOT / registry["files"][test["file"]]["plan"]).read_text())
            rows = {"base", "SFT", *(e["name"] for e in plan["entry"])}
            assert set(test.get("rows", [test.get("less"), test.get("more")])) <= rows, test
    for about in registry["files"].values():
        words = about["command"].split()
        assert words[0] in ("python", "tandem")
        assert all((ROOT / w).exists() for w in words if w.startswith("experiments/"))


def test_the_world_is_laid_beside_people(capsys):
    """The committed page is that of the outcomes; a number says on which side of people's it is."""
    assert world.main(["--check"]) == 0, capsys.readouterr().err
    people = {"reward": {"low": 65.0, "high": 76.0, "said": "65 to 76 %", "sources": ["a", "b"]}}
    numbers = [
        world.Number("one", 56.0, "56%", "full", "reward"),
        world.Number("two", 70.0, "70%", "full", "reward"),
        world.Number("three", float("nan"), "not run yet: there is no x.json", "x", "reward"),
        world.Number("four", 3.0, "3", "full"),
    ]
    page = world.world_page(numbers, people)
    assert "| one | 56% | full | 65 to 76 % ([1](a), [2](b)) | below |" in page
    assert "| two | 70% | full | 65 to 76 % ([1](a), [2](b)) | inside |" in page
    assert (
        "| three | not run yet: there is no x.json | x | 65 to 76 % ([1](a), [2](b)) | - |" in page
    )
    assert "| four | 3 | full | - | - |" in page
    assert "Outside of what is known of people: one." in page


def test_a_number_without_outcomes_is_not_run_yet(tmp_path: Path):
    found = list(world.world_numbers(Store(tmp_path)))
    stored = [n for n in found if not n.origin.startswith("the task")]
    assert len(stored) >= len(world.MEASURED)
    assert all(n.spelled.startswith("not run yet: there is no ") for n in stored)


def test_two_annotators_of_the_task_agree_as_their_errors_say(tmp_path: Path):
    """Each errs on a quarter of the pairs, so they agree on 5/8 of them."""
    (tmp_path / "full.json").write_text(json.dumps({"budget": {"flips": 0.25}}))
    agree, right, _ = world.people_of_task(Store(tmp_path))
    assert agree.value == pytest.approx(62.5, abs=7)
    assert right.value == pytest.approx(75, abs=6)


# findings -------------------------------------------------------------------------------------


def test_the_findings_are_those_of_the_outcomes(capsys):
    assert findings.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("prose", "said"),
    [
        ("{{nobody}}", "no claim 'nobody'"),
        ("{{truth-down: by nobody}}", "no test of that name was run"),
        ("{{if truth-down is fails}}", "written for 'truth-down' with the verdict 'fails'"),
        ("{{if ppo-over-sft is holds when: proxy}}", "which is now 'holds when: truth'"),
    ],
)
def test_a_sentence_does_not_outlive_what_it_says(prose, said):
    registry = read_registry(REGISTRY)
    judged = judge_registry(registry, Store(REGISTRY.parents[1] / "results"))
    with pytest.raises(ValueError, match=said):
        findings.findings_page(prose, registry, judged)
