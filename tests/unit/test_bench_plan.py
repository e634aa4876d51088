"""A plan from a file, a preset or flags; every mistake in it is found before anything runs."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import benches
import tiny
from tandem import cli
from tandem.bench import Claim, Plan, parse_claims
from tandem.cli.bench import comparison_notes, make_bench_parser
from tandem.cli.plans import (
    CHOSEN,
    FOLDER,
    PRESET_FILES,
    choose_preset,
    make_plan,
    preset_for_budget,
    preset_seconds,
)
from tandem.cli.settings import parse_words
from tandem.errors import ConfigError

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


def planned(*words: object) -> Plan:
    options = parse_words(make_bench_parser(), [str(word) for word in words])
    choose_preset(options)
    return make_plan(options)


def test_a_chain_is_the_claims_between_neighbours():
    assert parse_claims("SFT < DPO<PPO") == [Claim("SFT", "DPO"), Claim("DPO", "PPO")]


@pytest.mark.parametrize("text", ["SFT", "SFT <", "< DPO", "SFT < < DPO"])
def test_a_claim_without_two_names_is_refused(text):
    with pytest.raises(ConfigError, match="a claim is an ordering"):
        parse_claims(text)


def test_a_file_is_read_whole(tmp_path):
    plan = planned(benches.plan(tmp_path / "plan.yaml", seeds=3, exam=7), "--first_seed=4")
    assert (plan.title, plan.task, plan.exam) == ("tiny", "micro", 7)
    assert plan.seeds == (4, 5, 6)
    assert [e.name for e in plan.entries] == ["DPO", "best-of-n", "broken"]
    assert [str(c) for c in plan.claims] == ["SFT < DPO", "DPO < best-of-n"]
    assert plan.sizes.evaluation == 12
    dpo, best, broken = plan.entries
    assert (dpo.configs["dpo"].batch, dpo.configs["sft"].epochs) == (16, 1)
    assert (best.configs["best_of_n"].n, best.paper) == (2, {})
    assert (broken.recipe, dpo.paper) == ("benches:broken", {"win": 50.2})


def test_few_evaluation_prompts_are_told_with_the_plan(tmp_path, capsys):
    """Before anything runs, in place of the difference that could be resolved."""
    plan = benches.plan(tmp_path / "plan.yaml", sizes={"evaluation": 5})
    assert cli.main(["bench", str(plan), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "5 held-out prompts: no verdict is possible" in told
    assert "would be resolved" not in told
    assert "would be resolved" in comparison_notes(planned(benches.plan(tmp_path / "more.yaml")))


def test_an_entrys_settings_win_over_the_plans(tmp_path):
    row = {"name": "sharp", "method": "dpo", "settings": {"dpo": {"beta": 0.5}}}
    (entry,) = planned(benches.plan(tmp_path / "p.yaml", entry=[row], claims=[])).entries
    assert (entry.configs["dpo"].beta, entry.configs["dpo"].batch) == (0.5, 16)
    assert entry.changed == {"dpo": {"beta": 0.5}}


def test_methods_stand_in_for_the_plans_entries():
    plan = planned("--methods=dpo,best_of_n", "--seeds=2", "--task=micro-dialogue")
    assert [e.name for e in plan.entries] == ["DPO", "best-of-n"]
    assert (plan.task, plan.seeds, plan.claims) == ("micro-dialogue", (0, 1), ())


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_a_plan(path, tmp_path):
    own = 'task = "constraints"' in path.read_text(encoding="utf-8")
    more = [f"--model={tiny.folder(tmp_path / 'model')}"] if own else []
    assert planned(path, *more).entries


@pytest.mark.parametrize("preset", PRESET_FILES)
def test_every_preset_is_a_plan(preset):
    plan = planned(f"--preset={preset}")
    assert plan.title == preset
    assert preset in comparison_notes(plan)


def test_rsos_nine_settings_differ_in_source_and_loss_alone():
    (path,) = [p for p in EXPERIMENTS if p.stem == "rso"]
    settings = [e.configs["rso"] for e in planned(path).entries if e.method == "rso"]
    assert len({(s.source, s.dpo.loss) for s in settings}) == len(settings) == 9
    alike = {replace(s, source="rso", dpo=replace(s.dpo, loss="sigmoid")) for s in settings}
    assert len(alike) == 1


def test_the_presets_compare_what_they_promise():
    laptop, full = ({e.name for e in planned(f"--preset={p}").entries} for p in ("laptop", "full"))
    assert {"best-of-n", "DPO", "RSO", "PPO", "RLP-SPG"} <= laptop
    assert laptop | {"KTO", "RAFT", "ReST", "GRPO", "RLOO", "RLP-UML"} == full
    assert len(planned("--preset=full").seeds) == 5


def test_a_preset_costs_what_it_was_measured_at_times_the_speed():
    for name in PRESET_FILES:
        costs = tomllib.loads((FOLDER / f"{name}.toml").read_text())["costs"]
        rows = {"base", "SFT", *(e.name for e in planned(f"--preset={name}").entries)}
        assert costs.keys() == {"probe", *rows}
        once = preset_seconds(name, costs["probe"])
        assert preset_seconds(name, 3 * costs["probe"]) == pytest.approx(3 * once)
    seconds = [preset_seconds(name, 0.1) for name in PRESET_FILES]
    assert seconds == sorted(seconds)
    assert {p.stem for p in FOLDER.glob("*.toml")} == set(PRESET_FILES)


@pytest.mark.parametrize("speed", [0.02, 0.3])
def test_a_budget_chooses_the_longest_preset_that_ends_in_time(speed):
    for name in PRESET_FILES:
        needed = preset_seconds(name, speed)
        assert preset_for_budget(f"{needed + 1:.0f}s", speed) == (name, needed)
    assert preset_for_budget("1s", speed)[0] == "smoke"


def test_a_folder_keeps_the_preset_that_its_budget_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planned().title == "smoke"
    assert planned("--budget=2s").title == "smoke"
    begun = tmp_path / "runs/bench-1000h"
    assert planned("--budget=1000h").title == "full"
    begun.mkdir(parents=True)
    (begun / CHOSEN).write_text('{"preset": "brief"}')
    plan = planned("--budget=1000h")
    assert (plan.title, plan.seconds) == ("brief", 3.6e6)
    (begun / CHOSEN).write_text('{"preset": 3}')
    with pytest.raises(ConfigError, match="there is no preset '3'"):
        planned("--budget=1000h")


def test_ones_own_data_are_not_a_smoke_test(tmp_path):
    own = [f"--model={tmp_path}", f"--data={tmp_path}"]
    assert [e.method for e in planned(*own).entries] == ["best_of_n", "dpo", "ppo"]
    assert [e.method for e in planned(*own, "--methods=kto").entries] == ["kto"]
    assert planned(*own, "--preset=smoke").title == "smoke"


def test_a_budget_leaves_a_named_plan_alone():
    assert planned("--preset=smoke", "--budget=2h").title == "smoke"


# mistakes -------------------------------------------------------------------------------------

ROW = {"name": "DPO", "method": "dpo"}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"sedes": 3}, "unknown `sedes` in .* Did you mean `seeds`"),
    "seeds are text": ({"seeds": "3"}, "`seeds = '3'`.*\n.*whole number"),
    "seeds are true": ({"seeds": True}, "`seeds = True`"),
    "no seeds": ({"seeds": 0}, "0 seeds"),
    "claims are text": ({"claims": "SFT < DPO"}, "`claims = .*\n.*a list"),
    "a claim is a number": ({"claims": [3]}, "`claim = 3`"),
    "unknown claim": ({"claims": ["SFT < DPOO"]}, "names 'DPOO'. Did you mean `DPO`"),
    "unknown size": ({"sizes": {"pears": 3}}, "sizes.pears.*sizes.pairs"),
    "size is text": ({"sizes": {"pairs": "many"}}, "sizes.pairs"),
    "no pairs": ({"sizes": {"pairs": 0}}, "from 1 to"),
    "settings of nobody": ({"settings": {"dpoo": {}}}, "unknown `dpoo`.*Did you mean `dpo`"),
    "settings are no table": ({"settings": {"dpo": 3}}, "`dpo = 3`.*\n.*a table"),
    "unknown setting": ({"settings": {"dpo": {"betta": 1}}}, "dpo.betta.*dpo.beta"),
    "setting out of range": ({"settings": {"best_of_n": {"n": 9, "pool": 4}}}, "n <= pool"),
    "a cost is a text": ({"costs": {"DPO": "long"}}, "costs.DPO = 'long'"),
    "a cost is no number": ({"costs": {"DPO": float("nan")}}, "costs.DPO = 'NaN'"),
    "a cost is below 0": ({"costs": {"DPO": -1}}, "costs.DPO = -1"),
    "no entries": ({"entry": []}, "0 methods"),
    "an entry is text, no settings": ({"entry": ["dpo"], "settings": {}}, "`entry = 'dpo'`"),
    "an entry is text": ({"entry": ["dpo"]}, "`entry = 'dpo'`"),
    "no method": ({"entry": [{"name": "x"}]}, "'x' names no method"),
    "unknown method": ({"entry": [{"method": "dpoo"}]}, "no method 'dpoo'. Did you mean `dpo`"),
    "unknown key of an entry": ({"entry": [ROW | {"recipes": "a:b"}]}, "Did you mean `recipe`"),
    "same names": ({"entry": [ROW, ROW]}, "two entries are called 'DPO'"),
    "same folders": ({"entry": [ROW, ROW | {"name": "dpo!"}]}, "two entries"),
    "a name of digits": ({"entry": [ROW | {"name": "3"}]}, "an entry is called '3'"),
    "SFT is there": ({"entry": [ROW | {"name": "SFT"}]}, "always there"),
    "no such recipe": ({"entry": [ROW | {"recipe": "benches:nothing"}]}, "benches:nothing"),
    "no such module": ({"entry": [ROW | {"recipe": "nowhere:f"}]}, "nowhere:f"),
    "sizes of one entry": (
        {"entry": [ROW | {"settings": {"sizes": {"pairs": 3}}}]}, "sizes.pairs"
    ),
    "parts that do not go together": (
        {"entry": [{"method": "cai", "settings": {"rlaif": {"learn": "direct"}}}]},
        "rlaif.learn = 'direct' with cai.learn = 'rl'",
    ),
    "a reward": ({"entry": [{"method": "reward"}]}, "reward fits a reward model"),
    "a preference": ({"entry": [{"method": "preference"}]}, "fits a preference model"),
    "a solver": ({"entry": [{"method": "star"}]}, "star fits a solver"),
    "rounds": ({"entry": [{"method": "iterated_rlhf"}]}, "fits rewards and policies of several"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_before_anything_runs(name, tmp_path, capsys):
    changes, said = MISTAKES[name]
    path = benches.plan(tmp_path / "plan.yaml", **({"claims": []} | changes))
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        planned(path)
    assert cli.main(["bench", str(path), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert "why:" in told.err
    assert "do:" in told.err
    assert not (tmp_path / "out").exists()


FLAGS = {
    "budget": (["--budget", "soon"], "a budget is a time"),
    "no seeds": (["--methods", "dpo", "--seeds", "0"], "0 seeds"),
    "no preset": (["--preset", "lapptop"], "Did you mean `laptop`"),
    "two plans": (["plan.toml", "--preset", "laptop"], "each says what is compared"),
    "model alone": (["--methods", "dpo", "--model", "there"], "from a model and data"),
    "no task": (["--methods", "dpo", "--task", "macro"], "there is no task 'macro'"),
    "tracker": (["--preset", "smoke", "--tracker", "mlflow"], "no tracker 'mlflow'"),
    "unknown": (["--sedes", "3"], "Did you mean `seeds`"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_wrong_flag_says_what_why_and_what_to_do(name, capsys):
    words, said = FLAGS[name]
    assert cli.main(["bench", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "why:" in told
    assert "do:" in told
