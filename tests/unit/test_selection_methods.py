"""Best-of-n, RSO, RAFT, ReST around their limits: settings, refusals, measures, stopping."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climbing import Heard
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, DataError
from tandem.methods import raft, rest
from tandem.methods.best_of_n import BestOfNConfig
from tandem.methods.raft import RAFTConfig, stage_prompts
from tandem.methods.rest import ReSTConfig
from tandem.methods.rso import RSOConfig
from tandem.models.tokenizers import load_tokenizer
from tandem.operators import above, best, rejection, top_share
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.early_stopping import ValidatedPolicy, best_policy, run_validation, should_stop
from tandem.stages.sampling import BestOf
from tandem.stages.selection import log_above_mean, log_tilting, select
from tandem.statistics import acceptance_rate, describe_tilt, effective_beta
from tandem.training.validation import Validation
from worlds import F2_BOS, f1_model

PI_REF, R = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.5, 1.0, 2.0])
PI_STAR = np.array([0.04906103, 0.10002128, 0.18125735, 0.66966035])
POPULATION = np.repeat(R, [4, 3, 2, 1])  # ten answers with exactly the shares of pi_ref


def group(scores: Any, name: str = "x") -> Group:
    answers = tuple(Completion(chr(97 + i)) for i in range(len(scores)))
    return Group(Prompt(name, "?"), answers, scores=np.array(scores, np.float64))


def texts(g: Group) -> str:
    return "".join(c.text for c in g.completions)


# the tilt --------------------------------------------------------------------------------------


def test_acceptance_is_the_mean_chance():
    """Z e^{-r_max / beta} = .149329 on F1 at beta = .5; 1 at infinity; the best's share at 0."""
    assert acceptance_rate([POPULATION], 0.5) == pytest.approx(0.149329, abs=1e-6)
    assert acceptance_rate([POPULATION], math.inf) == 1.0
    assert acceptance_rate([POPULATION], 0.0) == pytest.approx(0.1)


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_effective_beta_undoes_the_tilt(beta: float):
    """The mean reward of pi_ref e^{r / beta} / Z has that beta; E r = 1.57058868 at .5."""
    share = PI_REF * np.exp(R / beta)
    mean = float(share @ R / share.sum())
    assert effective_beta([POPULATION] * 3, mean) == pytest.approx(beta, rel=1e-6)
    if beta == 0.5:
        assert mean == pytest.approx(1.57058868, abs=1e-8)


def test_effective_beta_at_its_limits():
    assert effective_beta([POPULATION], 2.0) == 0.0
    assert effective_beta([POPULATION], float(POPULATION.mean())) == math.inf


def test_a_smaller_pool_leans_further_towards_the_policy():
    """N = 64: keeping 1, 8, 32 at beta = .5 means a larger and larger beta.

    The laws are those of docs/theory/rejection_sampling.md#exact-values. The last has
    E r = .9187, between those of pi* at beta 1 (1.042) and 2 (.769), see
    docs/theory/tabular.md#fixture-f1.
    """
    laws = ((0.0505, 0.1053, 0.1787, 0.6655), (0.0566, 0.1139, 0.2001, 0.6294),
            (0.1448, 0.2729, 0.3826, 0.1998))  # fmt: skip
    found = [effective_beta([POPULATION], float(np.array(q) @ R)) for q in laws]
    assert found[0] == pytest.approx(0.5, abs=0.02)
    assert found[0] < found[1] < found[2]
    assert 1 < found[2] < 2


def test_tilt_tells_beta_in_spreads():
    numbers = describe_tilt([2 * POPULATION], [np.array([4.0])], 1.0)
    assert numbers["spreads"] == pytest.approx(1 / (2 * POPULATION.std()))
    assert numbers["acceptance"] == pytest.approx(0.149329, abs=1e-6)
    assert numbers["effective_beta"] == 0.0


def test_duplicates_that_were_not_candidates_are_no_pool(tmp_path: Path):
    """Of a, a, a, b without duplicates both are accepted: nothing was tilted."""
    pool = Group(Prompt("x", ""), tuple(map(Completion, "aaab")), scores=np.array([2.0, 2, 2, 0]))
    sampling = rejection(0.5, keep=8, dedupe=True)
    with Run(tmp_path, 0) as run:
        kept = run("kept", select, Groups.of([pool]), sampling)
        numbers = run("tilt", log_tilting, Groups.of([pool]), kept, sampling)
    assert len(kept[0]) == 2
    assert numbers["effective_beta"] == math.inf
    assert numbers["acceptance"] == pytest.approx((1 + math.exp(-4)) / 2)


def test_a_method_that_filters_is_not_stopped_by_its_filter(tmp_path: Path):
    validation = Validation(Groups.of([]), (("held_out", Any),), choose="proxy")  # type: ignore[arg-type]
    with Run(tmp_path, 0) as run, pytest.raises(ConfigError, match="judges who did not filter"):
        run_validation(
            run, "watch-0", Checkpoint(f1_model(tmp_path / "m"), "m"), validation, Sampling()
        )


def test_rejection_from_the_engine_s_own_draws(tmp_path: Path):
    """F1 drawn by the engine: 312 pools of 64, 8 accepted, and a bound's iid law.

    See docs/theory/rejection_sampling.md#exact-values.
    """
    folder = f1_model(tmp_path)
    engine = TorchEngine(folder, load_tokenizer(folder))
    prompt = Group(Prompt("x", "", tokens=np.array([F2_BOS], np.int32)))
    [drawn] = engine.sample([prompt], 64 * 312, Sampling(max_tokens=1), Seed(3))
    ys = np.array(["abcd".index(c.text) for c in drawn.completions])
    pools = [
        replace(drawn.keep(range(k, k + 64)), prompt=Prompt(str(k), ""), scores=R[ys[k : k + 64]])
        for k in range(0, len(ys), 64)
    ]
    counts = np.zeros(4)
    for kept in rejection(0.5, keep=8)(pools, Seed(1)):
        counts += [texts(kept).count(y) for y in "abcd"]
    np.testing.assert_allclose(counts / counts.sum(), (0.0566, 0.1139, 0.2001, 0.6294), atol=0.03)
    everything = replace(drawn, scores=R[ys])
    [iid] = rejection(0.5, keep=len(ys), mode="iid", bound=2.0)([everything], Seed(2))
    assert len(iid) / len(ys) == pytest.approx(0.149329, abs=0.01)
    found = np.array([texts(iid).count(y) for y in "abcd"]) / len(iid)
    np.testing.assert_allclose(found, PI_STAR, atol=0.03)


def test_in_spreads_the_scale_of_rewards_does_not_matter():
    """r and 100 r + 3 are accepted alike; in raw scores the second is as good as top-k."""
    rng = np.random.default_rng(0)
    r = rng.normal(size=16)
    for unit, same in (("spread", True), ("score", False)):
        sampling = rejection(1.0, keep=4, unit=unit)
        kept = [texts(g) for g in sampling([group(r)], Seed(7))]
        moved = [texts(g) for g in sampling([group(100 * r + 3)], Seed(7))]
        assert (kept == moved) is same
    (equal,) = rejection(1.0, keep=4, unit="spread")([group([1.0] * 6)], Seed(0))
    assert texts(equal) == "abcd"
    with pytest.raises(ConfigError, match="own spread"):
        rejection(1.0, keep=4, mode="iid", bound=1.0, unit="spread")


# settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: RSOConfig(keep=1), "rso.keep = 1"),
        (lambda: RSOConfig(pool=4, keep=8), "rso.pool = 4"),
        (lambda: RAFTConfig(k=1), "raft.k = 1"),
        (lambda: RAFTConfig(beta=-0.1), "raft.beta"),
        (lambda: ReSTConfig(improve=6), "5 thresholds"),
        (lambda: ReSTConfig(thresholds=(0.9, 0.7), improve=1), "thresholds"),
        (lambda: ReSTConfig(thresholds=(1.0,), improve=1), "thresholds"),
        (lambda: BestOfNConfig(n=32, pool=16), "best_of_n.n = 32"),
        (lambda: BestOf(Checkpoint(Path()), Any, 0), "n = 0"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Any, what: str):
    with pytest.raises(ConfigError, match=what.replace(".", r"\.")):
        make()


def test_rest_filters_by_its_settings_at_falling_rates():
    cfg = ReSTConfig(thresholds=(0.7, 0.9), improve=2, decay=0.5)
    assert cfg.filter(2) == above(tau=0.9, unit=True)
    assert replace(cfg, of="quantile", scope="per_prompt").filter(1) == above(
        quantile=0.7, scope="per_prompt"
    )
    rates = [cfg.fit(i).optim.lr for i in (0, 1, 2)]
    assert rates == [1e-5, 1e-5, 5e-6]


# selecting -------------------------------------------------------------------------------------


def test_local_ranking_sees_order_alone_and_global_does_not():
    """Increasing transforms and per-prompt shifts leave local ranking; a shift moves global."""
    rng = np.random.default_rng(1)
    given = [group(rng.normal(size=4), str(k)) for k in range(20)]
    shifted = [replace(g, scores=np.exp(g.scores) + 50 * (k % 2)) for k, g in enumerate(given)]
    for rank, same in (
        (RAFTConfig(k=4).rank, True),
        (RAFTConfig(k=4, ranking="global").rank, False),
    ):
        before, after = ({g.id: texts(g) for g in rank(x, Seed(0))} for x in (given, shifted))
        assert (before == after) is same
    assert RAFTConfig(k=4).rank == best()
    assert RAFTConfig(k=4, ranking="global").rank == top_share(0.25)


def test_select_says_how_much_is_left():
    heard = Heard()
    given = Groups.of([group([1, 2, 3]), group([0, 0], "y"), group([5], "z")])
    kept = list(select(given, above(tau=1.5), seed=Seed(0), events=heard))
    assert [texts(g) for g in kept] == ["bc", "a"]
    (line,) = heard.of("selected")
    assert (line["completions"], line["of_completions"]) == (3, 6)
    assert (line["prompts"], line["of_prompts"]) == (2, 3)
    assert line["per_prompt"] == 1.0


def test_nothing_left_is_refused():
    """Unit thresholds always leave the best; equal scores leave nothing above any threshold."""
    with pytest.raises(DataError, match="keeps no completion of 2 groups"):
        list(ReSTConfig().filter(1)([group([1, 1]), group([1, 1], "y")], Seed(0)))


def test_a_first_threshold_that_is_not_above_the_mean_is_said():
    """Scores 0, 1, 1, 1, 1, 10, mean 7/3: the median keeps nothing worse, the lower half does.

    Above the quantile 1/6 (a score of 0) lie 1, 1, 1, 1, 10, of which four are below the mean. A
    prompt's own mean counts where the threshold is its own: [0, 1] and [9, 10] have 1/2 and 19/2.
    """
    heard = Heard()
    skewed = Groups.of([group([0, 1, 1]), group([1, 1, 10], "y")])
    low = log_above_mean(skewed, above(quantile=1 / 6), events=heard)
    assert low == pytest.approx({"mean": 7 / 3, "kept": 5 / 6, "worse": 4 / 5})
    high = log_above_mean(skewed, ReSTConfig().filter(1), events=heard)
    assert high == pytest.approx({"mean": 7 / 3, "kept": 1 / 6, "worse": 0})
    texts_ = [line["text"] for line in heard.of("threshold")]
    assert ["not above the mean" in text for text in texts_] == [True, False]
    own = Groups.of([group([0, 1]), group([9, 10], "y")])
    halves = above(quantile=0.5, scope="per_prompt")
    assert log_above_mean(own, halves, events=heard)["worse"] == 0
    assert log_above_mean(own, above(tau=-1.0), events=heard)["worse"] == 0.5


def test_best_of_cuts_into_blocks():
    decoder = BestOf(Checkpoint(Path()), None, 3)  # type: ignore[arg-type]
    kept = decoder.choose(group([0, 2, 1, 5, 5, 4]))
    assert texts(kept) == "bd"
    assert kept.scores is None


def test_portions_pass_over_all_prompts():
    x = Groups.of(group([1], str(k)) for k in range(10))
    parts = [[g.id for g in stage_prompts(x, 4, t, seed=Seed(2))] for t in range(5)]
    assert all(len(set(p)) == 4 for p in parts)
    assert len({i for p in parts[:3] for i in p}) == 10
    assert sorted(g.id for g in stage_prompts(x, 99, 0, seed=Seed(2))) == [
        str(k) for k in range(10)
    ]


# stopping --------------------------------------------------------------------------------------


def trail(*values: float) -> list[ValidatedPolicy]:
    return [
        ValidatedPolicy(Checkpoint(Path(str(k))), {"held_out": v}) for k, v in enumerate(values)
    ]


def test_the_best_by_a_held_out_judge_is_chosen():
    validation = Validation(Groups.of([]), (("held_out", Any),), choose="held_out", patience=2)  # type: ignore[arg-type]
    assert str(best_policy(trail(0.1, 0.5, 0.4), validation).policy) == "1"
    assert not should_stop(trail(0.1, 0.5, 0.4), validation)
    assert should_stop(trail(0.1, 0.5, 0.4, 0.5), validation)
    assert not should_stop(trail(0.1, 0.5, 0.4, 0.6), validation)


def test_without_a_judge_the_last_is_chosen():
    assert str(best_policy(trail(0.5, 0.1), None).policy) == "1"
    assert not should_stop(trail(0.5, 0.1, 0.1), None)
    assert str(best_policy(trail(0.5, 0.1), Validation(Groups.of([]))).policy) == "1"


@pytest.mark.parametrize(
    ("keep", "rest_keeps", "raft_keeps", "grown_from"),
    [("best", "pi_sft", "pi_sft", "policy-1-1"), ("last", "policy-2-2", "policy-3", "policy-1-2")],
)
def test_the_last_policy_is_kept_where_that_is_asked_for(
    keep: Any, rest_keeps: str, raft_keeps: str, grown_from: str, monkeypatch: pytest.MonkeyPatch
):
    """The judges like every policy less than the one before it."""
    sampled: dict[str, str] = {}

    class Steps:
        seed = Seed(0)

        def __call__(self, stage: str, _: Any, policy: Any, *__: Any, **___: Any) -> Any:
            sampled[stage] = str(policy)
            return Checkpoint(Path(stage)) if stage.startswith("policy") else Groups.of([])

    def numbers(_: Any, stage: str, policy: Checkpoint, *__: Any) -> ValidatedPolicy:
        return ValidatedPolicy(policy, {"held_out": -float(len(sampled))})

    for method in (rest, raft):
        monkeypatch.setattr(method, "run_validation", numbers)
    pi, x, r = Checkpoint(Path("pi_sft")), Groups.of([]), Checkpoint(Path("r"))
    validation = Validation(x, (("held_out", Any),), choose="held_out")  # type: ignore[arg-type]
    run: Any = Steps()
    steps = ReSTConfig(grow=2, improve=2, keep=keep)
    assert str(rest.recipe(run, pi, x, r, Sampling(), validation, steps)) == rest_keeps
    assert sampled["grown-2"] == grown_from
    stages = RAFTConfig(stages=3, keep=keep)
    assert str(raft.recipe(run, pi, x, r, Sampling(), validation, stages)) == raft_keeps
