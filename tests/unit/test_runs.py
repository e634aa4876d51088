"""A run does each stage once, remembers it, and never mixes settings."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ModelError, Pending, RunError
from tandem.machine import Machine
from tandem.models import loading
from tandem.rng import Seed
from tandem.runs import atomic_files
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.display import Hidden
from tandem.runs.events import Window, read_events
from tandem.runs.identity import describe_value, fingerprint
from tandem.runs.names import record_as
from tandem.runs.policies import policy_of, result_policy
from tandem.runs.records import read_records
from tandem.runs.run import Run
from tandem.runs.verification import verify_run

CALLS: list[str] = []


@record_as("test_runs.Config")
@dataclass(frozen=True)
class Config:
    beta: float = 0.1
    steps: int = 3
    name: str = "x"


@record_as("test_runs.Nested")
@dataclass(frozen=True)
class Nested:
    inner: Config = Config()
    floor: float | None = None
    cache: list[int] = field(default_factory=list, compare=False)


class Colour(Enum):
    RED = 1
    BLUE = 2


def some_groups(n: int = 3) -> Groups:
    return Groups.of(
        Group(Prompt(f"p{i}", f"say {i}"), (Completion(f"answer {i}"), Completion("no")))
        for i in range(n)
    )


def double(x: float) -> float:
    CALLS.append("double")
    return 2 * x


def scored(groups: Groups, *, seed: Seed) -> Iterator[Group]:
    for group in groups:
        yield Group(group.prompt, group.completions, np.array([seed.uniform(), 0.0]))


def fit(start: Checkpoint | None, cfg: Config, *, ctx: StageContext):
    done = len(list(ctx.scratch.iterdir()))
    for step in range(done, cfg.steps):
        (ctx.scratch / f"{step}").write_text("x")
        ctx.events.progress(step + 1, cfg.steps, "steps", loss=1 / (step + 1), tokens=100 * step)
    CALLS.append(f"fit from {done}")
    write_model(ctx.out, cfg.beta)
    return Checkpoint(ctx.out, name="policy")


def write_model(folder: Path, weight: float) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(np.float64(weight).tobytes())
    return Checkpoint(folder)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


def opened(path: Path, seed: int = 0, **kw) -> Run:
    return Run(path, seed, display=Hidden(), **kw)


# what is remembered ---------------------------------------------------------------------------


def test_a_stage_is_done_once(tmp_path):
    for _ in range(2):
        with opened(tmp_path / "run") as run:
            assert run("twice", double, 4) == 8
    assert CALLS == ["double"]


def test_the_folder_tells_what_was_done(tmp_path):
    with opened(tmp_path, seed=5) as run:
        run("twice", double, 4)
        run("again", double, x=8.5)
    stage = json.loads((tmp_path / "01-twice/stage.json").read_text())
    assert stage["function"].endswith("test_runs.double")
    assert stage["arguments"] == {"x": 4}
    assert stage["seed"] == Seed(5).at("stage", "twice").value
    assert stage["seconds"] >= 0
    assert stage["peak_bytes"] > 1 << 20
    assert (tmp_path / "01-twice/DONE").exists()
    assert json.loads((tmp_path / "01-twice/artifact/value.json").read_text()) == 8
    assert [r.folder.name for r in read_records(tmp_path)] == ["01-twice", "02-again"]
    assert read_records(tmp_path)[1].load() == 17
    snapshot = json.loads((tmp_path / "run.json").read_text())
    assert snapshot["seed"] == 5
    assert snapshot["versions"]["numpy"] == np.__version__


def test_lazy_groups_are_streamed_into_parquet(tmp_path):
    with opened(tmp_path) as run:
        groups = run("scores", scored, some_groups())
        assert isinstance(groups, Groups)
    with opened(tmp_path) as run:
        again = run("scores", scored, some_groups())
    assert again.hash == groups.hash
    assert again[0].scores[0] == Seed(0).at("stage", "scores").uniform()
    assert (tmp_path / "01-scores/artifact/groups.parquet").exists()


def test_a_checkpoint_is_a_folder_and_follows_it(tmp_path):
    with opened(tmp_path / "run") as run:
        first = run("policy", fit, None, Config(beta=0.3))
        assert first == Checkpoint(tmp_path / "run/01-policy/artifact", "policy")
    (tmp_path / "run").rename(tmp_path / "moved")
    with opened(tmp_path / "moved") as run:
        moved = run("policy", fit, None, Config(beta=0.3))
        assert moved.path == tmp_path / "moved/01-policy/artifact"
        assert moved.hash == first.__class__(moved.path).hash
        run("next", fit, moved, Config(beta=0.4))
    assert CALLS == ["fit from 0", "fit from 0"]
    assert not (tmp_path / "moved/01-policy/scratch").exists()


def test_models_besides_the_result_can_be_removed(tmp_path):
    """Their stages stay done and equal; what would load them is told how to have them again."""
    for _ in range(2):  # the second time nothing is done again
        with opened(tmp_path / "run") as run:
            first = run("sft", fit, None, Config(beta=0.3))
            last = run("dpo", fit, first, Config(beta=0.4))
            freed = run.remove_weights_except(last)
    assert CALLS == ["fit from 0", "fit from 0"]
    assert freed == 0
    assert not list(first.path.rglob("*.safetensors"))
    assert list(last.path.rglob("*.safetensors"))
    assert all(found.problem is None for found in verify_run(tmp_path / "run"))
    with pytest.raises(ModelError, match="--redo 01-sft"):
        loading.load_policy(first.path, Machine(device="cpu"))


def test_a_checkpoint_elsewhere_is_referred_to(tmp_path):
    base = write_model(tmp_path / "base", 1.0)
    with opened(tmp_path / "run") as run:
        assert run("start", lambda_free, base) == base


def lambda_free(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint


def test_plain_values_come_back_as_they_were(tmp_path):
    value = {"a": [1, 2.5, None], "nan": math.nan, "cfg": Nested(floor=-math.inf), "n": np.int64(3)}
    with opened(tmp_path) as run:
        back = run("value", lambda_value, repr(value))
    assert math.isnan(back.pop("nan"))
    assert back == {"a": [1, 2.5, None], "cfg": Nested(floor=-math.inf), "n": 3}


def lambda_value(_: str):
    return {"a": [1, 2.5, None], "nan": math.nan, "cfg": Nested(floor=-math.inf), "n": np.int64(3)}


def test_seeds_depend_on_the_stage_and_the_run(tmp_path):
    with opened(tmp_path, seed=3) as run:
        drawn = [run("a", draw), run("b", draw), run.scope("seed-1")("a", draw)]
    with opened(tmp_path / "other", seed=3) as run:
        assert run("a", draw) == drawn[0]
    assert len(set(drawn)) == 3


def draw(*, seed: Seed) -> float:
    return seed.uniform()


def test_a_seed_given_by_the_recipe_is_an_argument(tmp_path):
    with opened(tmp_path) as run:
        assert run("a", draw, seed=Seed(9)) == Seed(9).uniform()
    assert read_records(tmp_path)[0].arguments["seed"]["value"] == 9


# what is refused ------------------------------------------------------------------------------


def test_other_arguments_are_refused_with_the_difference_and_two_ways_out(tmp_path):
    with opened(tmp_path) as run:
        run("policy", fit, None, Config(beta=0.3))
    with opened(tmp_path) as run, pytest.raises(RunError) as caught:
        run("policy", fit, None, Config(beta=0.5))
    assert "cfg.beta: 0.3 -> 0.5" in caught.value.what
    assert "cfg.steps" not in caught.value.what
    assert "--redo 01-policy" in caught.value.do
    assert "--out" in caught.value.do
    assert (tmp_path / "01-policy/DONE").exists()


def test_other_content_of_the_same_file_is_other_arguments(tmp_path):
    base = write_model(tmp_path / "base", 1.0)
    with opened(tmp_path / "run") as run:
        run("policy", fit, base, Config())
    write_model(tmp_path / "base", 2.0)
    with opened(tmp_path / "run") as run, pytest.raises(RunError, match=r"start\.checkpoint"):
        run("policy", fit, base, Config())


def test_another_seed_is_refused(tmp_path):
    opened(tmp_path, seed=1).close()
    with pytest.raises(RunError, match="seed 1, not 2"):
        opened(tmp_path, seed=2)


def test_one_name_for_two_stages_is_refused(tmp_path):
    with opened(tmp_path) as run:
        run("twice", double, 1)
        assert run("twice", double, 1) == 2
        with pytest.raises(RunError, match="two different stages"):
            run("twice", double, 2)


@pytest.mark.parametrize("name", ["", "a/b", "../up", "sp ace", "x.part"])
def test_names_that_are_no_folders_are_refused(tmp_path, name):
    with opened(tmp_path) as run, pytest.raises(RunError, match="a stage is called"):
        run(name, double, 1)


@pytest.mark.parametrize("name", ["03-x", "", "a/b", ".hidden"])
def test_scopes_that_look_like_stages_are_refused(tmp_path, name):
    with opened(tmp_path) as run, pytest.raises(RunError, match="a scope is called"):
        run.scope(name)


def test_unknown_types_are_refused_before_anything_is_written(tmp_path):
    with opened(tmp_path) as run, pytest.raises(RunError, match="content is unknown"):
        run("twice", double, object())
    assert read_records(tmp_path) == []
    assert not list(tmp_path.glob("01-*"))


def test_a_result_that_cannot_be_kept_is_refused_and_leaves_nothing(tmp_path):
    with opened(tmp_path) as run, pytest.raises(RunError, match="a stage returned"):
        run("twice", opaque, 1)
    assert not list(tmp_path.glob("01-*"))


def opaque(_: int) -> object:
    return object()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        opened(tmp_path / "file" / "run")


# redo and failure -----------------------------------------------------------------------------


def test_redo_does_the_stage_and_what_follows_from_it_again(tmp_path):
    def recipe(run: Run, beta: float) -> float:
        policy = run("policy", fit, None, Config(beta=beta))
        run("aside", double, 1)
        return run("weight", weight, policy)

    with opened(tmp_path) as run:
        recipe(run, 0.3)
    CALLS.clear()
    with opened(tmp_path, redo=["01-policy"]) as run:
        assert recipe(run, 0.7) == 0.7
    assert CALLS == ["fit from 0"]
    with opened(tmp_path) as run:
        assert recipe(run, 0.7) == 0.7


def weight(policy: Checkpoint) -> float:
    return float(np.frombuffer((policy.path / "model.safetensors").read_bytes())[0])


def test_redo_of_a_stage_in_a_scope(tmp_path):
    with opened(tmp_path) as run:
        run.scope("seed-1")("twice", double, 1)
    with opened(tmp_path, redo=["seed-1/01-twice"]) as run:
        assert run.scope("seed-1")("twice", double, 2) == 4


def test_redo_of_an_unknown_stage_is_refused_with_the_nearest(tmp_path):
    with opened(tmp_path) as run:
        run("policy", fit, None, Config())
    with pytest.raises(RunError, match="Did you mean `01-policy`"):
        opened(tmp_path, redo=["02-policy"])


def test_a_failing_stage_keeps_only_what_it_can_resume_from(tmp_path):
    with opened(tmp_path) as run, pytest.raises(ZeroDivisionError):
        run("fit", fail_at_two, fails=True)
    assert [p.name for p in tmp_path.glob("01-*")] == ["01-fit.part"]
    assert not (tmp_path / "01-fit.part/artifact").exists()
    assert read_records(tmp_path) == []
    kinds = [e["kind"] for e in read_events(tmp_path / "events.jsonl")]
    assert kinds[-1] == "stopped"
    with opened(tmp_path) as run, pytest.raises(RunError, match="fails: true -> false"):
        run("fit", fail_at_two, fails=False)


def fail_at_two(fails: bool, *, ctx: StageContext) -> float:
    (ctx.out / "half").write_text("half")
    (ctx.scratch / "1").write_text("1")
    return 1 / 0 if fails else 1.0


def test_pending_stops_cleanly_and_goes_on(tmp_path):
    flag = tmp_path / "answered"
    with opened(tmp_path / "run") as run, pytest.raises(Pending):
        run("votes", votes, str(flag))
    assert not list((tmp_path / "run").glob("01-*"))
    flag.touch()
    with opened(tmp_path / "run") as run:
        assert run("votes", votes, str(flag)) == 3


def votes(flag: str) -> int:
    if not Path(flag).exists():
        raise Pending("http://127.0.0.1:8000", 0, 3)
    return 3


def test_a_stage_without_its_mark_is_done_again(tmp_path):
    with opened(tmp_path) as run:
        run("twice", double, 1)
    (tmp_path / "01-twice/DONE").unlink()
    with opened(tmp_path) as run:
        run("twice", double, 1)
    assert CALLS == ["double", "double"]


def test_a_stage_sealed_but_not_named_is_kept(tmp_path):
    """The process died between DONE and the rename."""
    with opened(tmp_path) as run:
        run("twice", double, 1)
    (tmp_path / "01-twice").rename(tmp_path / "01-twice.part")
    with opened(tmp_path) as run:
        assert run("twice", double, 1) == 2
    assert CALLS == ["double"]


# one process at a time ------------------------------------------------------------------------

HOLDER = """
import sys, time
from tandem.runs.display import Hidden
from tandem.runs.run import Run
run = Run(sys.argv[1], display=Hidden())
print("open", flush=True)
time.sleep(60)
"""


def test_concurrent_use_is_refused_and_a_dead_owner_is_forgotten(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=f"process {owner.pid} is working"):
            opened(tmp_path)
        owner.kill()
    assert (tmp_path / "run.lock").read_text() == f"{owner.pid}\n"
    opened(tmp_path).close()


def test_a_notebook_may_open_its_run_again(tmp_path):
    first = opened(tmp_path)
    second = opened(tmp_path)
    assert second("twice", double, 1) == 2
    first.close()
    second.close()


# kill -9 --------------------------------------------------------------------------------------

VICTIM = Path(__file__).with_name("kill_victim.py")


def test_kill_at_random_moments_never_leaves_a_half_stage(tmp_path):
    """Kill a real process 20 times; the artifacts must equal those of an undisturbed run.

    The victim writes each artifact in many small pieces, so that most kills fall inside one.
    After each kill, every stage that has its name must be whole.
    """
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    subprocess.run([sys.executable, str(VICTIM), str(calm)], check=True)
    dice = random.Random(0)
    kills = 0
    while kills < 20:
        with subprocess.Popen([sys.executable, str(VICTIM), str(torn)]) as victim:
            wait_for(torn / "events.jsonl")
            time.sleep(dice.uniform(0.0, 0.12))
            victim.send_signal(signal.SIGKILL)
        kills += 1
        for record in read_records(torn):
            assert contents(record.folder) == contents(calm / record.folder.name)
        if len(read_records(torn)) == 4:
            atomic_files.remove_folder(sorted(torn.glob("0*"))[-1])
            atomic_files.remove_folder(sorted(torn.glob("0*"))[0])
    subprocess.run([sys.executable, str(VICTIM), str(torn)], check=True)
    assert {p.name for p in torn.glob("0*")} == {p.name for p in calm.glob("0*")}
    for folder in calm.glob("0*"):
        assert contents(torn / folder.name) == contents(folder)
    times = [event["time"] for event in read_events(torn / "events.jsonl")]
    assert len(times) > 20


def wait_for(path: Path) -> None:
    size = path.stat().st_size if path.exists() else -1
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size > size:
            return
        time.sleep(0.002)
    raise AssertionError("the victim did not start")


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in (folder / "artifact").rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


# ranks ----------------------------------------------------------------------------------------

RANKED = """
import os, sys, time
from pathlib import Path
from tandem.runs.display import Hidden
from tandem.runs.run import Run
here = Path(sys.argv[1])
def alone(): return os.environ["RANK"]
def together(*, ctx):
    (ctx.scratch / os.environ["RANK"]).touch()
    while len(list(ctx.scratch.iterdir())) < 2: time.sleep(.01)
    return os.environ["RANK"]
together.every_rank = True
run = Run(here / "run", display=Hidden())
print(run("alone", alone), run("together", together))
"""


def test_other_ranks_help_where_asked_and_wait_elsewhere(tmp_path):
    def start(rank: int) -> subprocess.Popen[str]:
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, "-c", RANKED, str(tmp_path)]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    for _ in range(2):
        ranks = [start(1), start(0)]
        assert [rank.communicate(timeout=60)[0] for rank in ranks] == ["0 0\n", "0 0\n"]


# descriptions ---------------------------------------------------------------------------------


def test_descriptions_tell_values_apart():
    values = [
        None, True, 1, 1.0, "1", "", (), (1,), ((1,),), {"a": 1}, {"a": 1.0}, Config(), Config(0.2),
        Nested(), Nested(floor=0.0), Colour.RED, Colour.BLUE, frozenset({1}), Seed(1),
        math.inf, -math.inf, np.arange(3), np.arange(3.0), double, Config, some_groups(2),
        some_groups(3),
    ]  # fmt: skip
    marks = [fingerprint(describe_value(v)) for v in values]
    assert len(set(marks)) == len(marks)
    assert marks == [fingerprint(describe_value(v)) for v in values]


def test_descriptions_ignore_what_is_no_content(tmp_path):
    assert describe_value(Nested(cache=[1])) == describe_value(Nested())
    assert describe_value(np.float64(0.5)) == describe_value(0.5)
    assert describe_value([1, 2]) == describe_value((1, 2))
    a, b = (write_model(tmp_path / name, 1.0) for name in "ab")
    assert describe_value(Checkpoint(a.path, "x")) == describe_value(Checkpoint(b.path, "x"))
    assert describe_value(Checkpoint(a.path, "x")) != describe_value(Checkpoint(a.path, "y"))


def test_closures_are_refused():
    with pytest.raises(RunError, match="content is unknown"):
        describe_value(lambda x: x)


def test_an_empty_checkpoint_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        _ = Checkpoint(tmp_path).hash


def test_groups_in_preferences_change_the_hash(tmp_path):
    plain = some_groups()
    judged = plain.map(lambda g: Group(g.prompt, g.completions, preferences=(Preference(0, 1),)))
    with opened(tmp_path) as run:
        run("n", count, plain)
    with opened(tmp_path) as run, pytest.raises(RunError, match=r"groups\.groups"):
        run("n", count, judged)


def count(groups: Groups) -> int:
    return len(groups)


# events ---------------------------------------------------------------------------------------


def test_a_broken_last_line_is_skipped_and_does_not_spoil_the_next(tmp_path):
    with opened(tmp_path) as run:
        run.events.log("note", loss=0.5)
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": 1, "ki')
    with opened(tmp_path) as run:
        run.events.log("note", loss=math.nan, text="é")
    notes = [e for e in read_events(path) if e["kind"] == "note"]
    assert [n["loss"] for n in notes] == [0.5, "nan"]
    assert [e["kind"] for e in read_events(path)] == ["opened", "note", "opened", "note"]


def test_progress_is_recorded_with_its_stage(tmp_path):
    with opened(tmp_path) as run:
        run("policy", fit, None, Config(steps=2))
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [e["kind"] for e in events] == ["opened", "started", "progress", "progress", "done"]
    assert events[3]["stage"] == "01-policy"
    assert (events[3]["done"], events[3]["total"], events[3]["loss"]) == (2, 2, 0.5)


def test_the_window_forgets_a_slow_start():
    """10 units in the first 100 s, then 10 a second: the estimate is that of the last 30 s.

    At t = 140, 410 of 1010 units are done; the window reaches back to t = 110 with 110 done:
    300 units in 30 s, so the remaining 600 take 60 s.
    """
    window = Window(30.0)
    window.add(0.0, 0, 1010, 0)
    window.add(100.0, 10, 1010, 0)
    for second in range(1, 41):
        rates = window.add(100.0 + second, 10 + 10 * second, 1010, 500 * second)
    assert rates == pytest.approx({"eta": 60.0, "tokens_per_s": 500.0})


def test_scopes_with_one_seed_share_stages(tmp_path):
    """Same function, arguments and seed: the second scope takes the first one's artifact."""
    with opened(tmp_path) as run:
        first, second = run.scope("a", run.seed), run.scope("b", run.seed)
        one = first("policy", fit, None, Config(beta=0.3))
        two = second("policy", fit, None, Config(beta=0.3))
        other = run.scope("c", seed=5)("policy", fit, None, Config(beta=0.3))
    assert CALLS == ["fit from 0", "fit from 0"]
    known = one.hash
    assert known == two.hash == other.hash
    assert one.path != two.path
    assert second.records()[0].same_as == "a/01-policy"
    shutil.rmtree(tmp_path / "a")
    CALLS.clear()
    with opened(tmp_path) as run:
        assert run.scope("b", run.seed)("policy", fit, None, Config(beta=0.3)).hash == known
        third = run.scope("d", run.seed)
        third("policy", fit, None, Config(beta=0.3))
    assert CALLS == []
    assert third.records()[0].same_as == "b/01-policy"


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    atomic_files.write_text(tmp_path / "page.html", "a\ud800b")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "a?b"


def test_redo_of_a_stage_that_another_scope_shares_does_it_again(tmp_path):
    """The other scope's is the same stage, and may be what is damaged."""
    for redo, calls in (((), 1), (["a/01-twice"], 1), (["b/01-twice"], 1)):
        with opened(tmp_path, redo=list(redo)) as run:
            for name in ("a", "b"):
                run.scope(name, seed=3)("twice", double, 2.0)
        assert CALLS.count("double") == calls, redo
        CALLS.clear()


def test_the_result_is_what_the_method_returned_and_not_the_last_model(tmp_path):
    """ReST stops early and returns an earlier policy; `export` and `chat` mean that one."""
    config = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})

    def names(run: Path) -> list[str]:
        return [policy_of(run).path.parent.name, result_policy(run)[0].name]

    with opened(tmp_path) as run:
        made = [run(name, fit_lm, config) for name in ("best", "worse")]
    assert names(tmp_path) == ["02-worse", "worse"]  # a folder of an earlier version
    with opened(tmp_path) as run:
        run.keep_result(made[0])
    assert names(tmp_path) == ["01-best", "best"]
    (tmp_path / "result.json").write_text('{"stage": "../elsewhere"}')
    assert names(tmp_path) == ["02-worse", "worse"]


def fit_lm(config: str, *, ctx: StageContext) -> Checkpoint:
    made = write_model(ctx.out, 1.0)
    (made.path / "config.json").write_text(config)
    return made
