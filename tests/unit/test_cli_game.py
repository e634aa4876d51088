"""`tandem game`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tandem.cli import main
from tandem.errors import DataError
from tandem.statistics.games import (
    check_transitivity,
    count_votes,
    mix_rankings,
    nash_equilibrium,
    read_game,
    resample_votes,
)
from tandem.statistics.games import game_file as files

RPS = "name,R,P,S\nR,,.1,.9\nP,.9,,.1\nS,.1,.9,\n"
BETTER = (
    "a,b,winner\n" + "x,y,a\n" * 9 + "y,x,a\n" + "x,z,a\n" * 8 + "x,z,tie\n" * 2 + "z,y,b\n" * 7
)


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def votes_file(folder: Path, rankings, shares, n: int, seed: int = 0) -> str:
    """Votes of a population, as an arena exports them."""
    truth, rng = mix_rankings(rankings, shares), np.random.default_rng(seed)
    with (folder / "votes.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model_a", "model_b", "winner", "language"])
        for _ in range(n):
            a, b = rng.permutation(truth.names)[:2]
            won, tied = rng.random() < truth.preference(a, b), rng.random() < 0.1
            bad = "tie (bothbad)" if rng.random() < 0.5 else "tie"
            writer.writerow([a, b, bad if tied else "model_a" if won else "model_b", "en"])
    return str(folder / "votes.csv")


# what it prints -------------------------------------------------------------------------------


def test_a_matrix_is_told_drawn_and_written(tmp_path, capsys):
    game, out, picture = write(tmp_path, "rps.csv", RPS), tmp_path / "o.json", tmp_path / "o.svg"
    words = ["game", game, "--reference", ".6,.3,.1", "--steps", "300"]
    assert main([*words, "--json", str(out), "--picture", str(picture)]) == 0
    told = capsys.readouterr().out
    for part in (
        "cyclic share: 1.000 of the log-odds",
        "triples that go in a circle by majority: 1 of 1",
        "the best stand in a circle: R, P, S",
        "R over S      0.900         0.500, even",
        "equilibrium at tau = 0.2",
        "R  0.3333  0.5438   0.4799   0.3445   0.2973    0.3014     0.6000",
        "optimistic mirror descent",
    ):
        assert part in told, part
    numbers = json.loads(out.read_text())
    assert numbers["names"] == ["R", "P", "S"]
    assert numbers["value"] == 0.5
    assert numbers["cyclic_share"] == {"log_odds": 1.0, "difference": pytest.approx(1)}
    taus = {e["tau"]: e for e in numbers["regularised"]}
    assert taus[0.1]["exploitability"] == pytest.approx(0.066778, abs=1e-6)
    assert max(e["residual"] for e in taus.values()) < 1e-12
    assert len(numbers["dynamics"]["played"]) == 8
    for played in numbers["dynamics"]["played"].values():
        assert played["steps"][0] == 0
        assert played["steps"][-1] == 300
        assert played["gaps"][-1] == pytest.approx(2 * played["exploitability"])


def test_the_picture_says_in_words_what_it_shows(tmp_path, capsys):
    picture = tmp_path / "o.svg"
    game = write(
        tmp_path, "g.json", json.dumps({"names": ["<a&b>", "$x^2$"], "p": [[0.5, 0.7], [0.3, 0.5]]})
    )
    assert main(["game", game, "--steps", "50", "--picture", str(picture)]) == 0
    root = ET.fromstring(picture.read_text())
    svg = "{http://www.w3.org/2000/svg}"
    assert root.attrib["role"] == "img"
    title, described = root.find(f"{svg}title"), root.find(f"{svg}desc")
    assert title is not None
    assert described is not None
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], described.attrib["id"]]
    assert "Nash-MD: last iterate 0." in (described.text or "")
    words = "".join(root.itertext())
    assert all(name in words for name in ("SPPO", "online IPO", "exploitability"))
    assert "script" not in picture.read_text()
    capsys.readouterr()


def test_a_triangle_shows_games_of_three_and_escapes_their_names(tmp_path, capsys):
    picture, names = tmp_path / "o.svg", ["<b>&", "$\\frac", "c"]
    p = [[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]]
    game = write(tmp_path, "g.json", json.dumps({"names": names, "p": p}))
    assert main(["game", game, "--steps", "50", "--picture", str(picture)]) == 0
    assert set(names) <= set(ET.fromstring(picture.read_text()).itertext())
    first = picture.read_bytes()
    assert main(["game", game, "--steps", "50", "--picture", str(picture)]) == 0
    assert picture.read_bytes() == first
    capsys.readouterr()


def test_cyclic_votes_are_resolved_and_transitive_ones_are_not(tmp_path, capsys):
    cyclic = votes_file(tmp_path, ["abcd", "bcad", "cabd"], None, 1500)
    assert main(["game", cyclic, "--draws", "60", "--json", str(tmp_path / "o.json")]) == 0
    told = capsys.readouterr().out
    assert "votes.csv: 1,500 votes between 4 names" in told
    assert "`both bad` are counted as ties" in told
    assert "ignored: `language`" in told
    assert "resolved: Bradley-Terry does not explain these votes" in told
    numbers = json.loads((tmp_path / "o.json").read_text())
    sure = numbers["intervals"]["numbers"]
    assert sure["exploitability of uniform"]["low"] <= numbers["policies"][0]["exploitability"]
    assert sorted(numbers["top_cycle"]) == ["a", "b", "c"]
    assert numbers["chance"]["p_value"] < 0.05
    plain = votes_file(tmp_path, ["abcd", "abcd", "dcba"], None, 300, seed=1)
    assert main(["game", plain, "--draws", "60"]) == 0
    told = capsys.readouterr().out
    assert "not resolved: Bradley-Terry with as many votes would often look as cyclic" in told


def test_it_runs_as_a_program_and_loads_no_torch(tmp_path):
    code = "import sys; from tandem.cli import main; c = main(sys.argv[1:]); "
    code += "print(c, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    words = [sys.executable, "-c", code, "game", write(tmp_path, "rps.csv", RPS), "--steps", "20"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"


def test_more_names_than_a_table_can_have_are_refused_while_they_are_counted(monkeypatch):
    monkeypatch.setattr("tandem.statistics.games.votes.MOST_COUNTED", 10)
    with pytest.raises(DataError, match="vote 10 brings the 11th name"):
        count_votes((f"m{k}", f"m{k + 1}", "a") for k in itertools.count())


def test_names_choose_a_part_of_the_game(tmp_path, capsys):
    game = write(tmp_path, "rps.csv", RPS)
    assert main(["game", game, "--names", "S, R", "--steps", "20"]) == 0
    assert "`R` is preferred to each other by majority" in capsys.readouterr().out


def test_the_advice_on_too_few_votes_can_be_carried_out(tmp_path, capsys):
    text = BETTER + "new one,x,a\n"
    game = write(tmp_path, "votes.csv", text)
    assert main(["game", game]) == 2
    error = capsys.readouterr().err
    assert "`x` and `new one` have 1 vote, and 3 of 6 pairs have fewer than 5" in error
    advice = error.split("--names ")[1].split()[0]
    assert main(["game", game, "--names", advice, "--draws", "20", "--steps", "20"]) == 0


# reading --------------------------------------------------------------------------------------


def test_rows_may_stand_in_another_order_and_lines_may_end_in_any_way(tmp_path):
    straight = read_game(write(tmp_path, "a.csv", RPS)).matrix
    turned = RPS.replace("\n", "\r\n").replace("R,,.1,.9\r\n", "") + "R,.5,.1,.9\r\n"
    other = read_game(write(tmp_path, "b.csv", b"\xef\xbb\xbf" + turned.encode())).matrix
    np.testing.assert_array_equal(straight.p, other.p)


def test_all_files_of_votes_say_the_same(tmp_path):
    rows = list(csv.DictReader(BETTER.splitlines()))
    kinds = {
        "a.csv": BETTER,
        "b.json": json.dumps(rows),
        "c.jsonl": "\n".join(json.dumps(row) for row in rows) + "\n\n",
    }
    found = [read_game(write(tmp_path, name, text), least=5) for name, text in kinds.items()]
    for game in found:
        np.testing.assert_array_equal(game.matrix.p, found[0].matrix.p)
    assert found[0].matrix.preference("x", "y") == pytest.approx(0.9)
    assert found[0].matrix.preference("x", "z") == pytest.approx(0.9)


def test_a_matrix_of_names_like_columns_is_a_matrix(tmp_path):
    text = ",a,b,winner\na,.5,.6,.7\nb,.4,.5,.6\nwinner,.3,.4,.5\n"
    assert read_game(write(tmp_path, "g.csv", text)).votes is None


def test_who_wins_everything_has_finite_rewards_and_log_odds():
    votes = count_votes([("x", "y", "a")] * 9 + [("y", "z", "a")] * 9 + [("x", "z", "a")] * 9)
    sure = resample_votes(votes, 20)
    assert all(np.isfinite([e.low, e.high]).all() for e in sure.rewards.values())
    assert sure.equilibrium["x"].low == 1
    assert check_transitivity(votes, 20).p_value > 0.05
    assert nash_equilibrium(votes.matrix()).policy.tolist() == [1, 0, 0]


# refusals -------------------------------------------------------------------------------------

MATRICES = {
    "sums": (RPS.replace("S,.1", "S,.2"), "P(S beats R) = 0.2 add up to 1.1"),
    "diagonal": (RPS.replace("R,,", "R,.6,"), "P(R beats R) is 0.6"),
    "outside": (RPS.replace(".9,,.1", "1.9,,.1"), "P(P beats R) is 1.9"),
    "percent": ("n,a,b\na,50,60\nb,40,50\n", "divide all cells by 100"),
    "nan": (RPS.replace(".9,,.1", "nan,,.1"), "P(P beats R) is nan"),
    "twice": (RPS.replace("name,R,P,S", "name,R,P,R"), "`R` stands twice, in places 1 and 3"),
    "row twice": (RPS + "S,.1,.9,\n", "line 5: the row `S` stands there a second time"),
    "no row": (RPS.rpartition("S,.1")[0], "the column `S` has no row"),
    "no column": (RPS + "T,.1,.9,.2\n", "line 5: the row `T` has no column"),
    "missing": (RPS.replace("P,.9,,.1", "P,.9,,"), "line 3: the cell P(P beats S) is missing"),
    "short": (RPS.replace("P,.9,,.1", "P"), "line 3: the cell P(P beats R) is missing"),
    "long": (RPS.replace("P,.9,,.1", "P,.9,,.1,.3"), "line 3: 4 cells after the name `P`"),
    "word": (RPS.replace("P,.9,,.1", "P,often,,.1"), "line 3: P(P beats R) is 'often'"),
    "semicolons": (RPS.replace(",", ";"), "cells are separated by commas"),
    "one name": ("n,a\na,.5\n", "the single name `a`"),
    "control": (RPS.replace("R,", "R\x1b[2J,"), "name 1 is 'R\\x1b[2J'"),
    "quote": (RPS + '"S,.1\n', "cannot be taken apart"),
    "empty": ("  \n", "is empty"),
    "no text": (b"\xff\xfe\x00\x01", "byte 0 is not UTF-8"),
    "many": ("n," + ",".join(f"x{k}" for k in range(201)) + "\n", "has 201 names"),
}  # fmt: skip
VOTES = {
    "winner": (BETTER + "x,y,c\n", 'line 29: the winner is "c"'),
    "no winner": (BETTER + "x,y,\n", 'line 29: the winner is ""'),
    "itself": (BETTER + "x,x,a\n", "line 29: `x` against itself"),
    "cells": (BETTER + "x,y\n", "line 29: 2 cells under 3 columns"),
    "name": (BETTER + ",y,a\n", "line 29: name 1 is ''"),
    "none": ("a,b,winner\n", "no votes"),
    "few": ("a,b,winner\nx,y,a\n", "`x` and `y` have 1 vote,"),
}
JSONS = {
    "broken": ('{"names": [', "line 1 column"),
    "other": ('{"name": []}', "neither names and p, nor a list of votes"),
    "deep": ("[" * 100_000, "g.json"),
    "names": ('{"names": [1, 2], "p": []}', "names is [1, 2]"),
    "hole": ('{"names": ["a", "b"], "p": [[0.5], [0.4, 0.5]]}', "P(a beats b), is missing"),
    "null": ('{"names": ["a", "b"], "p": [[0.5, null], [0.4, 0.5]]}', "p[0][1]"),
    "bool": ('{"names": ["a", "b"], "p": [[0.5, true], [0, 0.5]]}', "P(a beats b), is true"),
    "infinite": ('{"names": ["a", "b"], "p": [[0.5, Infinity], [0, 0.5]]}', "P(a beats b) is inf"),
    "huge": ('{"names": ["a", "b"], "p": [[0.5, 1' + "0" * 400 + "], [0, 0.5]]}", "P(a beats b)"),
    "wide": ('{"names": ["a", "b"], "p": [[0.5, 1, 1], [0, 0.5, 1]]}', "row 0 of 3 numbers"),
    "votes": ('[{"a": "x", "winner": "a"}]', "vote 1 is"),
    "winner": ('[{"a": "x", "b": "y", "winner": 1}]', "the winner is 1"),
    "number": ('[{"a": 1, "b": "y", "winner": "a"}]', "a name is 1"),
    "text": ('"text"', "neither names and p"),
}  # fmt: skip
CASES = [("g.csv", *case) for case in [*MATRICES.values(), *VOTES.values()]]
CASES += [("g.json", *case) for case in JSONS.values()]
CASES += [("g.jsonl", '{"a": "x", "b": "y", "winner": "a"}\n{', "line 2")]


@pytest.mark.parametrize(
    ("name", "text", "what"), CASES, ids=[*MATRICES, *VOTES, *(f"json {k}" for k in JSONS), "jsonl"]
)
def test_bad_files_are_refused_in_three_parts(tmp_path, capsys, name, text, what):
    out = tmp_path / "o.json"
    game = write(tmp_path, name, text)
    assert main(["game", game, "--json", str(out)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert what in told.err
    first, why, do = told.err.strip().split("\n")
    assert first.startswith("error: ")
    assert why.startswith("  why: ")
    assert do.startswith("  do:  ")
    assert not out.exists()


OPTIONS = [
    (["--tau", "a,b"], "--tau a,b"),
    (["--tau", "1e-9"], "tau is 1e-09"),
    (["--tau", "0"], "tau is 0"),
    (["--tau", "nan"], "tau is nan"),
    (["--dynamics_tau", "0"], "tau is 0"),
    (["--reference", ".5,.5"], "a policy of shape (2,) in a game of 3 actions"),
    (["--reference", ".5,.5,.5"], "in all 1.5"),
    (["--reference", "1,0,0"], "never plays `P`"),
    (["--start", "1,0,0"], "never plays `P`"),
    (["--steps", "0"], "--steps 0"),
    (["--steps", "1000000000"], "--steps 1000000000"),
    (["--draws", "3"], "--draws 3"),
    (["--least", "0"], "--least 0"),
    (["--names", "R,Q"], "no action is called `Q`"),
    (["--names", "R"], "the single name `R`"),
    (["--json", "out.txt"], "--json out.txt"),
    (["--json", "no/such/folder/out.json"], "--json no/such/folder/out.json"),
    (["--picture", "out.png"], "--picture out.png"),
    (["--tua", "1"], "Did you mean `tau`"),
]


@pytest.mark.parametrize(("words", "what"), OPTIONS, ids=[" ".join(w) for w, _ in OPTIONS])
def test_bad_options_are_refused_before_anything_is_made(
    tmp_path, capsys, words, what, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["game", write(tmp_path, "rps.csv", RPS), *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert what in told.err
    assert [p.name for p in tmp_path.iterdir()] == ["rps.csv"]


def test_missing_and_wrong_files_are_refused(tmp_path, capsys, monkeypatch):
    game = write(tmp_path, "rps.csv", RPS)
    json_game = write(tmp_path, "rps.json", "{}")
    monkeypatch.setattr(files, "MOST_BYTES", 2**20)
    huge = write(tmp_path, "huge.csv", RPS + " " * 2**20)
    for words, what in (
        ([str(tmp_path / "rsp.csv")], "Did you mean `rps.csv`"),
        ([str(tmp_path)], "is a folder"),
        ([write(tmp_path, "rps.xlsx", RPS)], "ends in `.xlsx`"),
        ([huge], "MiB"),
        ([json_game, "--json", json_game], "is the game's own file"),
        (["/dev/zero"], "no such file"),
        ([game, "extra"], "extra"),
    ):
        assert main(["game", *words]) == 2, words
        assert what in capsys.readouterr().err
