"""Reward models against held-out judgments, and policies against each other, on known worlds."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import DataError
from tandem.evaluation import (
    Table,
    kl_column,
    lay_out_comparisons,
    learning_table,
    length_column,
    policy_evaluation,
    reward_evaluation,
    score_column,
    with_other_prompts,
)
from tandem.evaluation.mark_separation import separate_marks
from tandem.rng import Seed
from tandem.statistics import mean_of, paired_difference, win_rate


def world(
    prompts: int = 400,
    *,
    scale: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
    judgments: int = 1,
    mistakes: int = 0,
) -> list[Group]:
    """Two answers a prompt with quality N(0, 1); Bradley-Terry judges; scores = scale * quality.

    `noise` is the model's own error, drawn from (`seed`, `mistakes`); judgments depend on `seed`.
    """
    draw, own = np.random.default_rng(seed), np.random.default_rng([seed, mistakes])
    groups: list[Group] = []
    for k in range(prompts):
        quality, lengths = 1.5 * draw.standard_normal(2), draw.integers(5, 40, 2)
        p = 1 / (1 + math.exp(quality[1] - quality[0]))
        first = [draw.random() < p for _ in range(judgments)]
        votes = tuple(Preference(0, 1) if yes else Preference(1, 0) for yes in first)
        answers = tuple(
            Completion("x", np.zeros(n, np.int32), author=a)
            for n, a in zip(lengths, ("sft", "weak"), strict=True)
        )
        scores = scale * quality + noise * own.standard_normal(2)
        groups.append(Group(Prompt(f"p{k}", f"prompt {k}"), answers, scores, votes))
    return groups


def test_a_model_that_is_the_truth() -> None:
    """Calibrated, T near 1, and its accuracy is that of the better answer winning."""
    found = reward_evaluation(world(3000), draws=100)
    assert found.judgments == 3000
    assert found.ece is not None
    assert found.ece_half is not None
    assert found.ece.mean < 0.03
    assert 0 <= found.ece.low < found.ece.mean < found.ece.high < 0.05
    assert found.temperature == pytest.approx(1, abs=0.12)
    assert 0.72 < found.accuracy.mean < 0.82
    assert found.log_loss.high < math.log(2)
    assert found.brier.high < 0.25
    assert found.longer_wins.low <= 0.5 <= found.longer_wins.high


def test_an_overconfident_model_is_mended_by_its_temperature() -> None:
    """Scores four times too large: T = 4; accuracy is the same, ECE and log-loss fall."""
    sure, right = (reward_evaluation(world(2000, scale=s), draws=100) for s in (4.0, 1.0))
    assert sure.accuracy == right.accuracy
    assert sure.temperature == pytest.approx(4, rel=0.15)
    assert sure.ece_half is not None
    assert sure.ece_scaled is not None
    assert sure.log_loss_scaled is not None
    assert sure.ece_scaled.high < sure.ece_half.low
    assert sure.log_loss_scaled.mean < sure.log_loss.mean


def test_presentation_is_random_and_repeatable() -> None:
    """The preferred answer comes first half of the time, and swapping changes no pair."""
    groups = world(600)
    table = lay_out_comparisons(groups, seed=Seed(1))
    assert 0.42 < table.y.mean() < 0.58
    other = lay_out_comparisons(groups, seed=Seed(2))
    assert (table.y != other.y).any()
    np.testing.assert_allclose(np.abs(table.difference), np.abs(other.difference))
    backwards = lay_out_comparisons(groups[::-1], seed=Seed(1))
    np.testing.assert_array_equal(table.y, backwards.y[::-1])


def test_repeated_judgments_are_clustered_by_prompt() -> None:
    """Ten clicks on each prompt are not ten prompts."""
    many = reward_evaluation(world(100, judgments=10), draws=50)
    naive = math.sqrt(many.accuracy.mean * (1 - many.accuracy.mean) / 1000)
    assert many.accuracy.n == 100
    assert many.accuracy.se > 1.3 * naive


def test_ties_count_in_proper_scores_and_not_in_accuracy() -> None:
    groups = world(100)
    tied = [replace(g, preferences=(Preference(0, 1, p=0.5),)) for g in world(50, seed=9)]
    tied = [replace(g, prompt=Prompt(f"t{k}", f"tie {k}")) for k, g in enumerate(tied)]
    found, plain = reward_evaluation(groups + tied, draws=50), reward_evaluation(groups, draws=50)
    assert (found.judgments, found.ties) == (150, 50)
    assert found.accuracy.mean == plain.accuracy.mean
    assert found.log_loss.mean != plain.log_loss.mean


def test_slices() -> None:
    """Each slicing covers all judgments once; large differences are judged better."""
    found = reward_evaluation(world(800), draws=50)
    sizes: dict[str, int] = {}
    for part in found.slices:
        sizes[part.kind] = sizes.get(part.kind, 0) + part.n
    assert set(sizes.values()) == {800}
    accuracy = {(s.kind, s.name): s.accuracy for s in found.slices}
    low, high = (accuracy["|score difference|", f"{q} quarter"] for q in ("lowest", "highest"))
    assert high.low > low.high
    assert ("length", "shorter answer wins") in accuracy
    assert ("written by", "sft / weak") in accuracy
    assert ("agreement", "0.95 to 1.00") in accuracy


def test_a_model_that_likes_length_fails_where_the_shorter_wins() -> None:
    groups = [
        replace(g, scores=np.array([float(len(c.tokens)) for c in g.completions]))
        for g in world(400)
    ]
    accuracy = {s.name: s.accuracy.mean for s in reward_evaluation(groups, draws=50).slices}
    assert accuracy["shorter answer wins"] == 0
    assert accuracy["longer answer wins"] == 1


def test_ensemble_disagreement_points_at_errors() -> None:
    """Members that err on every second prompt only: there they disagree, and are wrong."""
    truth = world(1500)
    members = [
        [noisy if k % 2 else sure for k, (sure, noisy) in enumerate(zip(truth, other, strict=True))]
        for other in (world(1500, noise=6.0, mistakes=m) for m in range(4))
    ]
    together = [
        replace(group, scores=np.mean([np.asarray(m[k].scores) for m in members], axis=0))
        for k, group in enumerate(truth)
    ]
    found = reward_evaluation(together, members=members, draws=100)
    assert found.disagreement_auroc is not None
    assert found.disagreement_auroc.low > 0.5
    assert reward_evaluation(together, draws=50).disagreement_auroc is None
    with pytest.raises(DataError, match="`nothing` at place 1"):
        reward_evaluation(together, members=[members[0][:1], members[1]], draws=50)


def test_disagreement_ignores_a_members_constant_per_prompt() -> None:
    groups = world(50)
    moved = [replace(g, scores=np.asarray(g.scores) + k) for k, g in enumerate(groups)]
    table = lay_out_comparisons(groups, [groups, moved], seed=Seed())
    np.testing.assert_allclose(table.spread, 0, atol=1e-12)


def test_a_good_model_prefers_a_prompts_own_answers() -> None:
    """Scored 1 on their own prompt and 0 elsewhere: win rate 1; scored blindly: one half."""
    groups = [replace(g, scores=np.ones(2)) for g in world(60)]
    strangers = list(with_other_prompts(replace(g, scores=None) for g in groups))
    assert [g.id for g in strangers] == [g.id for g in groups]
    for own, other, before in zip(groups, strangers, [groups[-1], *groups], strict=False):
        assert [c.tokens.tolist() for c in other.completions] == [
            c.tokens.tolist() for c in before.completions
        ]
        assert len(other) == len(own)
    zeros = [replace(g, scores=np.zeros(2)) for g in strangers]
    ones = [replace(g, scores=np.ones(2)) for g in strangers]
    sees = reward_evaluation(groups, other_prompts=zeros, draws=20).own_prompt
    blind = reward_evaluation(groups, other_prompts=ones, draws=20).own_prompt
    assert sees is not None
    assert blind is not None
    assert (sees.mean, blind.mean) == (1, 0.5)
    with pytest.raises(DataError, match="group `p1` has no scored answers"):
        reward_evaluation(groups, other_prompts=zeros[:1], draws=20)


def test_few_judgments_have_no_calibration() -> None:
    found = reward_evaluation(world(10), draws=20)
    assert found.ece is None
    assert found.temperature is None
    assert "temperature, fitted on half          -" in str(found)


def test_the_report_prints_and_becomes_json() -> None:
    found = reward_evaluation(world(200), draws=50)
    text = str(found)
    assert text.startswith("200 held-out judgments (0 ties), 95 % intervals")
    assert f"accuracy                             {found.accuracy}" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    as_json = json.loads(json.dumps(found.as_dict()))
    assert as_json["measures"]["accuracy"]["mean"] == found.accuracy.mean
    assert as_json["slices"][0]["slice"] == "|score difference|"


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([], "no judgments"),
        ([replace(g, preferences=()) for g in world(3)], "no judgments"),
        ([replace(g, scores=None) for g in world(3)], "group `p0` has none"),
        ([replace(g, scores=np.array([1, math.inf])) for g in world(3)], "finite score"),
        ([replace(g, preferences=(Preference(0, 1, 0.5),)) for g in world(3)], "all 3 judgments"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(groups: list[Group], match: str) -> None:
    with pytest.raises(DataError, match=match):
        reward_evaluation(groups)


def test_learning_table() -> None:
    """More labels, less noise: the rows are the evaluations, the curve falls."""
    points = [
        (n, "0.8M", reward_evaluation(world(1500, noise=40 / math.sqrt(n)), draws=20))
        for n in (250, 1000, 4000)
    ]
    table, curves = learning_table(points)
    assert [row[0] for row in table.rows] == [250, 1000, 4000]
    assert curves["0.8M"].at(250) > curves["0.8M"].at(4000)
    assert learning_table(points[:2])[1] == {}


# policies


def columns(quality: np.ndarray) -> dict[str, np.ndarray]:
    return {"truth": quality, "length": np.full(quality.shape, 12.0)}


def test_policies_are_compared_on_the_same_prompts() -> None:
    draw = np.random.default_rng(0)
    hard = 3 * draw.standard_normal(200)
    policies = {
        "sft": columns(hard + draw.standard_normal(200)),
        "dpo": columns(hard + 0.6 + draw.standard_normal((5, 200))),
        "reference": columns(hard + 2 + draw.standard_normal(200)),
    }
    found = policy_evaluation(policies)
    rows = {row.name: row for row in found.rows}
    dpo, sft = policies["dpo"]["truth"], policies["sft"]["truth"]
    assert rows["dpo"].wins["sft"] == win_rate(dpo > sft)
    assert rows["dpo"].gain == paired_difference(dpo, np.broadcast_to(sft, dpo.shape))
    assert rows["dpo"].means["truth"] == mean_of(dpo)
    assert rows["dpo"].wins["sft"].low > 0.5 > rows["dpo"].wins["reference"].high
    assert "sft" not in rows["sft"].wins
    assert rows["sft"].gain is None
    assert rows["dpo"].adjusted_p is not None
    assert rows["dpo"].adjusted_p >= rows["dpo"].wins["sft"].p_value


def test_the_policy_table() -> None:
    draw = np.random.default_rng(1)
    sft = draw.standard_normal(100)
    policies = {
        "base": {"truth": sft - 2},
        "sft": {"truth": sft, "proxy": sft, "invented": np.abs(sft)},
        "dpo": {"truth": sft + draw.standard_normal(100) * 0.3, "kl": np.abs(sft), "other": sft},
    }
    found = policy_evaluation(policies, opponents=("sft",))
    assert found.table().columns == (
        "policy",
        "win vs sft",
        "ties vs sft",
        "truth gain",
        "Holm p",
        "truth",
        "proxy",
        "kl",
        "invented",
        "other",
    )
    base, _ = found.verdicts()
    assert base.startswith("resolved: base is worse than sft, 0 [0, 0.037]")
    as_json = json.loads(json.dumps(found.as_dict()))
    assert as_json["policies"][2]["kl"]["mean"] == pytest.approx(np.abs(sft).mean())
    assert as_json["policies"][0]["kl"] is None
    assert str(found).count("\n") > 5


def test_outcomes_of_a_pairwise_judge_come_first() -> None:
    played = np.array([1, 1, 0.5, 0.0] * 10)
    found = policy_evaluation(
        {"dpo": {}, "sft": {}}, opponents=("sft",), outcomes={("dpo", "sft"): played}
    )
    dpo = found.rows[0]
    assert dpo.wins["sft"] == win_rate(played)
    assert dpo.ties["sft"] == 0.25
    assert dpo.gain is None


def test_policies_on_other_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="no policy `reference`"):
        policy_evaluation({"sft": columns(np.zeros(5))})
    with pytest.raises(DataError, match=r"`dpo` has numbers of shape \(4,\)"):
        policy_evaluation(
            {"sft": columns(np.zeros(5)), "dpo": columns(np.zeros(4))}, opponents=("sft",)
        )


def test_columns_of_groups() -> None:
    """KL = mean over completions of summed log-ratios: (1.5 + .5) / 2."""

    def drawn(*logps: list[float]) -> Group:
        answers = tuple(Completion("", np.zeros(len(x), np.int32), logp=np.array(x)) for x in logps)
        return Group(Prompt("x", ""), answers, scores=np.array([1.0, 4.0]))

    policy, reference = drawn([-1.0, -0.5], [-2.0]), drawn([-2.0, -1.0], [-2.5])
    assert kl_column([policy], [reference]).tolist() == [1.0]
    assert length_column([policy]).tolist() == [1.5]
    assert score_column([policy]).tolist() == [2.5]
    with pytest.raises(DataError, match="group `x` has no scores"):
        score_column([replace(policy, scores=None)])
    with pytest.raises(DataError, match="`x` with 2 completions meets `x` with 1"):
        kl_column([policy], [reference.keep([0])])
    bare = replace(policy, completions=(Completion("a"), Completion("b")))
    with pytest.raises(DataError, match="without log-probabilities"):
        kl_column([bare], [reference])


def test_tables_align() -> None:
    table = Table(("name", "n"), (("a", 1), ("longer", None)), "title")
    assert str(table) == "title\nname    n\n------  -\na       1\nlonger  -"


def test_a_name_from_data_commands_no_terminal() -> None:
    table = Table(("subset", "n\x1b[2J"), (("a\x1b]0;b\x07c\nd\te", 1),), "by `\x1b[31m`")
    said = str(table)
    assert len(said.splitlines()) == 4
    assert all(c.isprintable() or c == "\n" for c in said)
    assert table.as_dicts()[0]["subset"] == "a\x1b]0;b\x07c\nd\te", "JSON has it as it is"


def test_marks_are_told_apart_in_no_square() -> None:
    rng = np.random.default_rng(0)
    good, scores = rng.integers(0, 2, 30_000).astype(float), rng.integers(0, 9, 30_000) * 1.0
    found = separate_marks(scores + good, good)
    few = separate_marks((scores + good)[:400], good[:400])
    a, b = (scores + good)[:400][good[:400] == 1], (scores + good)[:400][good[:400] == 0]
    above = np.sign(a[:, None] - b[None, :])
    assert few.auc == pytest.approx((above > 0).mean() + (above == 0).mean() / 2)
    assert found.auc == pytest.approx(few.auc, abs=0.1)


def test_evaluation_never_loads_torch() -> None:
    code = "import sys, tandem.evaluation, tandem.operators; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
