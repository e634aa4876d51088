"""The command line: commands, settings from flags and files, and how endings are told."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tandem import cli
from tandem.cli import doctor, settings
from tandem.errors import ConfigError, Pending
from tandem.methods import HEADINGS, INPUTS, METHODS, methods_markdown, methods_table


@dataclass(frozen=True, slots=True)
class Optim:
    """How to step.

    Attributes:
        lr: peak learning rate.
        betas: decay of the two moments.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"optim.lr = {self.lr}", "lr > 0", "give a positive number")


@dataclass(frozen=True, slots=True)
class Extra:
    rank: int = 16


@dataclass(frozen=True, slots=True)
class Method:
    """A method.

    Attributes:
        beta: strength of the KL term, 100 % of
            it.
        gamma: threshold; None leaves it out.
        loss: which.
        optim: how.
    """

    beta: float = 0.1
    gamma: float | None = 0.5
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    name: str = "x"
    flag: bool = False
    optim: Optim = Optim(lr=3e-5)
    extra: Extra | None = None
    words: tuple[str, ...] = ()


def parsed(*words: str, file: Path | None = None) -> Method:
    parser = settings.make_parser("run toy", "A toy.")
    parser.add_argument("--seed", type=int, default=0)
    settings.add_settings(parser, {"toy": Method()})
    return settings.with_parsed_values(
        Method(), settings.parse_words(parser, words, *(() if file is None else (file,))).toy
    )


# settings -------------------------------------------------------------------------------------


def test_every_field_is_a_flag():
    flat = ["beta=0.2", "gamma=null", "loss=ipo", "name=12", "flag=true"]
    deep = ["optim.lr=1", "optim.betas=[.5,.6]", "extra.rank=4"]
    assert parsed(*(f"--toy.{word}" for word in flat + deep)) == Method(
        0.2, None, "ipo", "12", True, Optim(1.0, (0.5, 0.6)), Extra(4)
    )


def test_defaults_are_those_of_the_dataclass():
    assert parsed() == Method()


FILES = {
    "a.toml": 'seed = 3\n[toy]\nbeta = 1\ngamma = "null"\n[toy.optim]\nbetas = [0.1, 0.2]\n',
    "a.yaml": "seed: 3\ntoy:\n  beta: 1\n  gamma: null\n  optim:\n    betas: [0.1, 0.2]\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_flags_win(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name])
    assert parsed(file=path) == Method(1.0, None, optim=Optim(3e-5, (0.1, 0.2)))
    assert parsed("--toy.beta", "7", file=path).beta == 7


def test_a_resolved_configuration_reads_back_as_itself(tmp_path):
    config = Method(0.2, None, "ipo", 'a "quoted" näme', True, Optim(1.5e-7, (0.5, 0.6)), Extra(4))
    path = tmp_path / "run.toml"
    path.write_text(settings.to_toml({"seed": 3, "toy": settings.nested_tables(config)}))
    assert parsed(file=path) == config


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--toy.bata", "1"], "`toy.bata` in the command line. Did you mean `toy.beta`"),
        (["--toy.bata=1"], "Did you mean `toy.beta`"),
        (["--toy.bet", "1"], "unknown setting `toy.bet`"),
        (["--toy.words.words=1"], "`toy.words.words`.*Did you mean `toy.words`"),
        (["--toy.extra.rang=1"], "Did you mean `toy.extra.rank`"),
        (["--toy.beta", "abc"], "toy.beta.*float.*abc"),
        (["--toy.loss", "ip"], "toy.loss.*sigmoid.*ip"),
        (["--toy.optim.lr", "-1"], "optim.lr = -1.0"),
        (["--toy.beta"], "expected one argument"),
        (["stray"], "stray"),
        (["--seed", "1.5"], "1.5"),
    ],
)  # fmt: skip
def test_wrong_flags_are_refused(words, what):
    with pytest.raises(ConfigError, match=what) as caught:
        parsed(*words)
    assert caught.value.why
    assert caught.value.do


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.toml", "[toy]\nbeto = 1", "unknown setting `toy.beto` in .*a.toml.*Did you mean"),
        ("a.toml", "toi = 1", "unknown setting `toi`"),
        ("a.toml", "[toy", "a.toml: "),
        ("a.yaml", "toy: [", "a.yaml: "),
        ("a.yaml", "- 1", "holds list, not a table"),
        ("a.yaml", "toy:\n  beta: wide", "toy.beta.*wide"),
        ("a.json", "{}", "TOML or YAML"),
        ("a.toml", None, "No such file"),
    ],
)
def test_wrong_files_are_refused(tmp_path, name, text, what):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parsed(file=path)
    assert __import__("re").search(what, str(caught.value))


def test_broken_utf8_is_refused(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="utf-8"):
        parsed(file=tmp_path / "a.toml")


def test_help_tells_what_a_field_means(capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "strength of the KL term, 100 % of it." in text
    assert "decay of the two moments." in text


# endings --------------------------------------------------------------------------------------


def tandem(*words: str, **kw) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tandem", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kw)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["rum"], "no command `rum`. Did you mean `run`?"),
        (["data", "chek"], "no command `data chek`. Did you mean `data check`?"),
        (["run", "dop"], "no method 'dop'. Did you mean `dpo`?"),
        (["methods", "--jsn"], "unknown setting `jsn` in the command line. Did you mean `json`?"),
        (["tasks", "check", "macro"], "no task 'macro'. Did you mean `micro`?"),
    ],
)
def test_mistakes_end_in_three_parts_and_exit_2(words, what):
    done = tandem(*words)
    assert done.returncode == 2
    assert what in done.stderr
    assert "\n  why: " in done.stderr
    assert "\n  do:  " in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_parts_that_do_not_go_together_are_refused_before_anything_runs(tmp_path, capsys):
    """Each table is right alone; constitutional AI cannot learn from d-RLAIF's ratings."""
    out = tmp_path / "run"
    words = ["run", "cai", "--task", "micro-dialogue", "--out", str(out)]
    assert cli.main([*words, "--rlaif.learn", "direct"]) == 2
    assert "rlaif.learn = 'direct' with cai.learn = 'rl'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Pending("http://127.0.0.1:1", 2, 9), 3, "2 of 9 judgements"),
        (KeyboardInterrupt(), 130, "goes on from here"),
        (ConfigError("a", "b", "c"), 2, "why: b"),
    ],
)
def test_endings_have_their_codes(monkeypatch, capsys, error, code, said):
    def end(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "run_command", end)
    assert cli.main(["run"]) == code
    assert said in capsys.readouterr().err
    assert cli.main(["eval", "suite", "llmbar"]) == code
    assert ("begins again" in capsys.readouterr().err) == (code == 130)


def test_our_own_mistakes_keep_their_traceback(monkeypatch, capsys):
    def end(words: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "run_command", end)
    assert cli.main(["data", "check"]) == cli.FAULT
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_version_and_overview(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tandem 0.")
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert cli.main(["data"]) == 0
    assert "doctor" not in capsys.readouterr().out


# tables ---------------------------------------------------------------------------------------


def test_methods_prints_the_table(capsys):
    assert cli.main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(METHODS)
    assert set(rows[0]) == {"name", *HEADINGS}
    assert cli.main(["methods"]) == 0
    assert "bradley_terry" in capsys.readouterr().out
    assert cli.main(["methods", "--markdown"]) == 0
    assert capsys.readouterr().out == methods_markdown()


def test_the_table_has_a_cell_for_every_heading():
    assert all(len(row) == len(HEADINGS) for row in methods_table())
    assert all(line.count("|") == len(HEADINGS) + 1 for line in methods_markdown().splitlines())
    assert all(name.isidentifier() for name in [*METHODS, *INPUTS])


# doctor ---------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_fit(capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:4] for line in lines} <= {"pass", "warn", "    "}
    assert any(line.startswith("pass  torch") for line in lines)


def test_doctor_fails_on_a_folder_without_a_model(tmp_path, capsys):
    assert cli.main(["doctor", "--model", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "fail  model" in out
    assert "fix:" in out


def test_a_finding_has_its_fix_below():
    assert str(doctor.Finding("warn", "disk", "1 GiB", "make room")).splitlines()[1].split() == [
        "fix:", "make", "room"
    ]  # fmt: skip


# display --------------------------------------------------------------------------------------

SHOWN = """
import sys, time
from tandem.runs.display import open_display
from tandem.runs.events import Log, StageEvents
from pathlib import Path
log = Log(Path(sys.argv[1]) / "events.jsonl", open_display(sys.stderr))
events = StageEvents(log, "03-policy")
for step in range(1, 6):
    events.progress(step, 5, "steps", loss=1 / step, gold=0.5, proxy=1.5, tokens=1000 * step)
    time.sleep(.05)
log.display.end("03-policy")
log.display.say("03-policy  done")
"""


def test_plain_lines_when_not_a_terminal(tmp_path):
    command = [sys.executable, "-c", SHOWN, str(tmp_path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert text.splitlines()[-1] == "03-policy  done"
    assert "03-policy  5/5 steps  loss 0.2  gold 0.5  proxy 1.5" in text
    assert "tokens/s" in text
    assert "\x1b" not in text


def read_all(terminal: int) -> Iterator[bytes]:
    """Read a terminal, which gives some at a time and fails when its other end is closed."""
    with contextlib.suppress(OSError):
        while some := os.read(terminal, 1 << 16):
            yield some


def test_bars_on_a_terminal(tmp_path):
    near, there = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160"}
    command = [sys.executable, "-c", SHOWN, str(tmp_path)]
    with subprocess.Popen(command, stderr=there, env=env):
        os.close(there)
        text = b"".join(read_all(near)).decode()
    os.close(near)
    assert "\x1b[" in text
    assert "5/5 steps  loss 0.2  gold 0.5  proxy 1.5" in text
    assert "03-policy  done" in text


def test_other_ranks_are_silent(tmp_path):
    command = [sys.executable, "-c", SHOWN, str(tmp_path)]
    env = {**os.environ, "RANK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stderr == ""
