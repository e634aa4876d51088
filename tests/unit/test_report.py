"""The report says what the results say, shows hostile text as text, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reports import GAINS, HOSTILE, synthetic
from tandem.cli import main
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError
from tandem.report import read_results, write_comparison, write_report
from tandem.report.difference import (
    comparison_headline,
    independent_difference,
    judge_difference,
    measured_changes,
)
from tandem.report.figures import curve_numbers
from tandem.report.numbers import (
    round_up,
    spell_decimal,
    spell_note,
    spell_p_value,
    spell_percent,
    spell_seconds,
    spell_signed,
)
from tandem.report.page import render_report
from tandem.report.svg import SERIES, Sheet
from tandem.report.verdict import comparisons_still_needed, open_estimate, verdict_sentences
from tandem.report.views import interval_bar, length_view, method_table, samples_view
from tandem.runs.display import Hidden
from tandem.runs.run import Run
from tandem.statistics import Estimate, confidence_sequence, mean_of, win_rate

CSS = (Path(__file__).parents[2] / "src/tandem/report/assets/report.css").read_text()


class Reader(HTMLParser):
    """Collects elements, attributes and text as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def built():
    html, numbers = render_report(synthetic())
    return html, numbers, Reader(html)


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(synthetic()))
    return tmp_path


def test_the_headline_names_the_winner_and_whether_it_is_resolved():
    """DPO gains .5 and PPO .45 with noise .85 a difference over 600 pairs: se .035 each."""
    first, second, failed = verdict_sentences(synthetic())
    assert first.standing == "resolved"
    assert first.claim in ("DPO beats SFT.", "PPO beats SFT.")
    assert second.standing == "not resolved"
    assert re.search(r"about [\d,]+ more comparisons", second.evidence)
    assert failed.claim == "RSO failed."
    assert "beta = -1" in failed.evidence


def test_what_holm_does_not_keep_is_not_called_resolved():
    results = synthetic(matrix=None)
    for row in results["policies"]:
        row["Holm p"] = 0.2
    first = verdict_sentences(results)[0]
    assert first.standing == "not resolved"
    assert "No method is shown to beat SFT" in first.claim
    assert "over all comparisons" in first.evidence


def test_who_loses_before_holm_is_not_said_to_win_before_it():
    lost = win_rate(np.arange(100) < 35).as_dict() | {"holm_p": 0.2}
    row = {"policy": "DPO", "win vs SFT": lost, "Holm p": 0.2}
    said = verdict_sentences({"policies": [{"policy": "SFT"}, row], "opponent": "SFT"})
    assert said[0].standing == "not resolved"
    assert "alone would say that it loses more often;" in said[0].evidence


def test_the_highest_mean_may_be_of_one_that_loses():
    """A few large gains make the mean; by wins it is worse, and that is resolved."""
    results = synthetic(matrix=None)
    rows = {row["policy"]: row for row in results["policies"]}
    rows["PPO"]["truth gain"]["mean"] = 9.0
    rows["PPO"]["win vs SFT"] = win_rate(np.arange(100) < 20).as_dict()
    _, second, *_ = verdict_sentences(results)
    assert second.standing == "worse"
    assert second.claim == "PPO has the highest mean, but wins less often than SFT."


def test_no_number_of_comparisons_is_named_where_seeds_are_added_until_resolved():
    rng = np.random.default_rng(0)
    found = confidence_sequence(rng.normal(0.05, 1, (4, 50)))
    assert not found.resolved
    assert comparisons_still_needed(found) is None


def test_a_number_without_an_interval_is_drawn_without_one_and_says_why():
    few = win_rate([1.0] * 8)
    bar = interval_bar(few, (0.0, 1.0), "plain")
    assert (bar.low, bar.high) == (None, None)
    assert "too few" in spell_note(few, spell_percent)
    row = {"policy": "DPO", "win vs SFT": few.as_dict(), "truth gain": mean_of([1.0]).as_dict()}
    table = method_table(
        {"policies": [{"policy": "SFT"}, row], "opponent": "SFT", "judge": "truth"}
    )
    wins, gain = table["rows"][0]["cells"]
    assert "8 prompts are too few for a share" in wins.note
    assert "one prompt says nothing" in gain.note


def test_the_highest_mean_does_not_win_where_only_another_is_resolved():
    results = synthetic(matrix=None)
    rows = {row["policy"]: row for row in results["policies"]}
    rows["PPO"]["truth gain"]["mean"] = 9.0
    rows["PPO"]["Holm p"] = 0.2
    first, second, *_ = verdict_sentences(results)
    assert (first.standing, first.claim) == ("resolved", "DPO beats SFT.")
    assert (second.standing, second.claim[:29]) == ("not resolved", "PPO has the highest mean, but")


def test_a_winner_that_is_worse_than_its_opponent_is_said_to_be():
    results = synthetic()
    lost = win_rate([0.0] * 90 + [1.0] * 10).as_dict()
    results["policies"] = [{"policy": "SFT"}, {"policy": "DPO", "win vs SFT": lost}]
    assert verdict_sentences(results)[0].standing == "worse"


def test_a_policy_that_did_not_move_is_said_not_to_have_moved():
    even = win_rate([0.0, 1.0] * 50).as_dict()
    row = {"policy": "DPO", "win vs SFT": even, "kl": {"mean": 0.001}}
    said = verdict_sentences(
        {"policies": [{"policy": "SFT"}, row], "opponent": "SFT", "seeds": [0]}
    )
    assert "Training hardly moved it: KL 0.00 to SFT." in said[0].evidence
    assert said[-1].claim == "One training seed."


def test_nothing_compared_is_said_plainly():
    assert verdict_sentences({"policies": []})[0].claim == "Nothing was compared yet."


def test_fits_find_the_peak_of_the_synthetic_curve(built):
    """The curve is d (.5 - .5 ln d): its peak is exp(.5 / .5 - 1) = 1, its height .5."""
    climb = built[1]["report"]["figures"]["climb-0"]
    assert climb["fit"]["peak"] == pytest.approx(1.0, abs=0.05)
    assert climb["fit"]["height"] == pytest.approx(0.5, abs=0.05)
    assert climb["diverged"]
    assert climb["gap"] == pytest.approx(2.5 - 2.5 * (0.5 - 0.5 * np.log(2.5)), abs=0.05)


def test_a_curve_that_only_rises_has_no_peak_in_range():
    points = [{"kl": d * d, "proxy": d, "truth": d, "round": d, "length": 1.0} for d in range(4)]
    found = curve_numbers(points, "truth", "rl")
    assert not found["diverged"]
    assert found["best"]["at"] == 3


def test_every_section_is_there_and_every_figure_has_words(built):
    html, numbers, page = built
    drawings = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert {a["id"] for a in drawings} == {
        "frontier", "climb-0", "climb-bon", "calibration", "lengths",
    }  # fmt: skip
    assert {f["alt"] for f in numbers["report"]["figures"].values()} == {
        a["aria-label"] for a in drawings
    }
    headings = [tag for tag, _ in page.elements if tag in ("h1", "h2")]
    assert headings == ["h1"] + ["h2"] * 10
    tables = sum(tag == "table" for tag, _ in page.elements)
    assert tables == sum(tag == "caption" for tag, _ in page.elements) >= 7
    assert len(html.encode()) < 400_000


def test_the_papers_number_stands_apart(built):
    html = built[0]
    assert re.search(r'<td class="number paper">76.09</td>', html)
    assert "in the paper, elsewhere" in html


def test_ids_are_unique_and_references_lead_to_them(built):
    ids = [a["id"] for _, a in built[2].elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in built[2].elements if (a.get("href") or "").startswith("#")}
    assert wanted <= set(ids)


def test_nothing_is_loaded_and_nothing_runs_but_what_is_named_by_hash(built):
    html, _, page = built
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")


def hostile() -> dict:
    """Every string that a model, a file or a user may write is hostile."""
    results = synthetic(title=HOSTILE, question=HOSTILE, task=HOSTILE, command=HOSTILE)
    results["limits"] = [HOSTILE]
    results["policies"][1]["policy"] = HOSTILE
    results["policies"][4]["reason"] = HOSTILE
    results["matrix"]["names"][1] = HOSTILE
    results["curves"][0]["policy"] = HOSTILE
    results["cost"][0]["stage"] = HOSTILE
    for sample in results["samples"]:
        sample["prompt"] = sample["reference"] = HOSTILE
        sample["answers"][1] |= {"text": HOSTILE, "policy": HOSTILE}
    return results


def test_hostile_text_stays_text(built):
    html, numbers = render_report(hostile())
    page, clean = Reader(html), built[2]
    for tag in ("script", "style", "img", "iframe", "meta", "link", "form", "article"):
        assert sum(t == tag for t, _ in page.elements) == sum(t == tag for t, _ in clean.elements)
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert any(HOSTILE.strip() in text for text in page.text)
    (css,) = re.findall("<style>(.*?)</style>", html, re.S)
    assert "display:none}" not in css.replace(CSS, "")
    assert json.loads(json.dumps(numbers, default=float))["title"] == HOSTILE


def test_a_style_of_a_drawing_cannot_carry_a_rule_of_its_own():
    sheet = Sheet()
    sheet.name("fill: #010101; stroke: red} body{display:none; opacity: 0.5")
    assert sheet.css() == ".m0{fill:var(--ink);opacity:0.5}"


def test_a_long_bench_stays_below_a_megabyte_and_says_what_is_left_out():
    results = synthetic()
    long = {"policy": "SFT", "text": "word " * 2000, "length": 2000, "truth": 1.0, "proxy": 1.0}
    results["samples"] = [{"prompt": "p", "answers": [long, {**long, "policy": "DPO"}]}] * 100
    html, _ = render_report(results)
    assert len(html.encode()) < 1_000_000
    shown = html.count('<article class="sample"')
    assert 0 < shown < 100
    assert f"{100 - shown} more samples are in the JSON file beside this page" in html


def test_a_sample_too_long_for_the_page_hides_no_other():
    results = synthetic()
    results["samples"][0]["answers"][0]["text"] = "x" * 500_000
    assert samples_view(results)["left_out"] == 1
    alone = samples_view(results | {"samples": results["samples"][:1]})
    assert (alone["shown"], alone["left_out"]) == ([], 1)


def test_the_twin_holds_the_verdict_and_every_number(bench):
    target = write_report(bench)
    twin = json.loads(target.with_suffix(".json").read_text())
    assert target == bench / "report.html"
    assert twin["report"]["verdicts"][0]["claim"] in target.read_text()
    assert {row["policy"] for row in twin["policies"]} == {*GAINS, "RSO"}


def test_the_page_is_the_same_every_time(bench):
    first = write_report(bench).read_text()
    assert write_report(bench).read_text() == first


def test_results_with_nearly_nothing_make_a_page_that_says_so(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"policies": []}))
    html = write_report(tmp_path).read_text()
    assert "Nothing was compared yet." in html
    assert "No trained policy was compared" in html


def test_half_characters_and_control_characters_do_not_stop_the_page(tmp_path):
    results = synthetic()
    results["policies"][1]["policy"] = "a\x00\x1b\ud800b"
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "a\x00\x1b?b" in write_report(tmp_path).read_text(encoding="utf-8")


def test_places_without_results_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds neither results\.json nor finished stages"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"policies": [1]}')
    with pytest.raises(DataError, match="no list `policies`"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_results(tmp_path)


def test_a_report_never_replaces_its_source(bench):
    with pytest.raises(ConfigError, match="would write over"):
        write_report(bench, bench / "results.html")


def test_the_command_writes_the_page_and_its_twin(bench, capsys):
    assert main(["report", str(bench), "--out", str(bench / "x.html")]) == 0
    assert "x.html (numbers: x.json)" in capsys.readouterr().out
    assert main(["report"]) == 2
    assert "neither a path nor --diff" in capsys.readouterr().err


def test_a_comparison_finds_what_moved_and_what_was_set_differently(tmp_path):
    """DPO's truth gain goes from .5 to 1.5 with a standard error near .05; PPO's stays."""
    before, after = synthetic(), synthetic(prompts=60)
    row = after["policies"][1]
    for key in ("mean", "low", "high"):
        row["truth gain"][key] += 1.0
    for name, results in (("a", before), ("b", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    target = write_comparison(tmp_path / "a", tmp_path / "b")
    twin = json.loads(target.with_suffix(".json").read_text())
    moved = [c for c in twin["changes"] if c["holm_p"] is not None and c["holm_p"] < 0.05]
    assert [(c["policy"], c["measure"]) for c in moved] == [("DPO", "truth gain")]
    assert moved[0]["change"]["mean"] == pytest.approx(1.0)
    assert {"setting": "prompts", "a": "120", "b": "60"} in twin["settings"]
    assert "1 of" in target.read_text()


def test_differences_of_independent_means_add_their_variances():
    """Half widths of .3 t and .4 t join to .5 t, whichever quantile t the two have."""
    for t in (1.959964, 4.302653):
        a, b = (
            Estimate(m, m - t * se, m + t * se, 10, 0.5, "", se)
            for m, se in ((1.0, 0.3), (2.0, 0.4))
        )
        found = independent_difference(a, b)
        assert found.se == pytest.approx(0.5)
        assert found.low == pytest.approx(1 - t * 0.5, abs=1e-6)
        assert (found.p_value < 0.05) == found.resolved


def test_a_difference_of_few_seeds_has_the_tail_of_few_seeds():
    """Three seeds, t with 2 degrees of freedom: 5 standard errors are p = .038, not 6e-7."""
    half = float(stats.t.isf(0.025, 2))
    a, b = (Estimate(m, m - half, m + half, 100, 0.5, "", 1.0, seeds=3) for m in (0.0, 5 * 2**0.5))
    assert independent_difference(a, b).p_value == pytest.approx(2 * stats.t.sf(5, 2), rel=1e-3)


def test_wins_by_different_judges_are_not_compared():
    a, b = synthetic(), synthetic(judge="proxy")
    for row in b["policies"]:
        row["proxy gain"] = row.get("truth gain")
    compared = {row["column"].key for row in measured_changes(a, b)}
    assert "proxy_win" in compared
    assert not compared & {"win vs SFT", "proxy gain", "lc_win"}
    rows = measured_changes(a, synthetic())
    assert "win vs SFT" in {row["column"].key for row in rows}
    said = comparison_headline(rows, judge_difference(a, b)).evidence
    assert "A is judged by truth, B by proxy" in said


def test_comparing_what_shares_no_policy_is_refused(tmp_path):
    for name, policy in (("a", "X"), ("b", "Y")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"policies": [{"policy": policy}]}))
    with pytest.raises(DataError, match="A has X and B has Y"):
        write_comparison(tmp_path / "a.json", tmp_path / "b.json", tmp_path / "out.html")


@pytest.mark.parametrize(
    ("spelled", "wanted"),
    [
        (spell_decimal(-0.5), "\u22120.50"), (spell_decimal(-0.001), "0.00"),
        (spell_decimal(None), "\u2013"),
        (spell_decimal(float("nan")), "\u2013"), (spell_signed(0.25), "+0.25"),
        (spell_signed(-0.25), "\u22120.25"),
        (spell_signed(0.001), "0.00"), (spell_percent(0.575), "57.5\u202f%"),
        (spell_p_value(1e-9), "p < 0.001"),
        (spell_p_value(None), "p unknown"), (round_up(1234), "1,300"),
        (spell_seconds(75.2), "1 min 15 s"),
        (spell_seconds(7500), "2 h 05 min"),
    ],
)  # fmt: skip
def test_numbers_are_spelled_for_people(spelled, wanted):
    assert spelled == wanted


def test_estimates_survive_json():
    given = win_rate([1, 0, 1, 1, 0.5, 0] * 2)
    assert open_estimate(json.loads(json.dumps(given.as_dict()))) == given
    assert open_estimate(None) is None


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(scheme):
    """4.5 to 1 for text, on the page and on cards; 3 to 1 for what is drawn."""
    block = re.findall(r":root \{(.*?)\}", CSS, re.S)[scheme]
    colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))
    text = ["ink", "muted", "accent", "good", "bad", "open"]
    drawn = [f"s{k + 1}" for k in range(len(SERIES))] + ["line"]
    for names, least in ((text, 4.5), (drawn, 3.0)):
        for name in names:
            for under in ("paper", "card"):
                pair = sorted((luminance(colours[name]), luminance(colours[under])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, (name, under)


REAL = Path(__file__).parents[1] / "data/report/results.json"


def test_a_real_run_is_told_as_it_was(tmp_path):
    """`tandem run ppo --task micro --seed 0`, as `read_results` saw its folder."""
    results = read_results(REAL)
    html, numbers = render_report(results)
    assert numbers["report"]["verdicts"][0]["claim"] == "PPO beats SFT."
    assert "One training seed" in html
    assert {"frontier", "climb-0"} <= numbers["report"]["figures"].keys()
    row = next(r for r in results["policies"] if r["policy"] == "PPO")
    assert spell_percent(row["win vs SFT"]["mean"]) in html


def drawn(prompts: Groups, n: int, texts: list[str]) -> Groups:
    """A stage of answers, with the arguments of `sample`."""
    del n
    token = np.array([1], np.int32)
    return Groups.of(
        Group(g.prompt, tuple(Completion(f"{text} to {g.id}", token) for text in texts))
        for g in prompts
    )


@pytest.mark.parametrize("kind", ["samples", "answers"])
def test_samples_of_training_are_not_taken_for_answers_of_a_policy(kind, tmp_path):
    """RAFT calls its own samples `samples-1`; `direct` has stages `answers-...` too."""
    asked, trained = (
        Groups.of(Group(Prompt(f"{x}{k}", f"say {k}"), ()) for k in range(many))
        for x, many in (("p", 8), ("q", 2))
    )
    with Run(tmp_path / "run", 0, display=Hidden()) as run:
        run("samples-1", drawn, trained, 1, ["own"])
        run("answers-2", drawn, asked, 2, ["own", "own"])
        for name in ("base", "best-of-4"):
            run(f"{kind}-{name}", drawn, asked, 1, [name])
    found = read_results(tmp_path / "run")
    assert found["prompts"] == len(found["samples"]) == 8
    for sample in found["samples"]:
        texts = {a["policy"]: a["text"] for a in sample["answers"]}
        place = sample["prompt"].removeprefix("say ")
        assert texts == {n: f"{n} to p{place}" for n in ("base", "best-of-4")}


def test_a_reward_that_follows_length_is_said_to():
    def part(name: str, right: float) -> dict[str, object]:
        accuracy = win_rate(np.arange(100) < 100 * right).as_dict()
        return {"slice": "length", "part": name, "n": 100, "accuracy": accuracy}

    said = length_view([part("longer answer wins", 0.95), part("shorter answer wins", 0.23)])
    assert said is not None
    assert "95.0" in said
    assert "23.0" in said
    fair = [part("longer answer wins", 0.72), part("shorter answer wins", 0.68)]
    assert length_view(fair) is None
    assert length_view(fair[:1]) is None
    few = [win_rate([float(k)] * 8).as_dict() for k in (1, 0)]
    unknown = [p | {"accuracy": a} for p, a in zip(fair, few, strict=True)]
    assert length_view(unknown) is None
