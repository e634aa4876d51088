"""Sample, judge, select, fit on F2, through the recipes: every limit is known.

See docs/theory/tabular.md#sampling-methods. The policy is a one-layer Llama with the law of fixture
F2, the reward a model of the same size that was fitted to it; sampling, judging, selecting and
fitting are the stages that train real models, and the law of what comes out is read off its
weights.

    answers aa, ab, ba, bb;   pi_ref = (.42, .18, .08, .32);   r = (0, 1, .5, -1);   beta = 1/2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.judges import open_judge
from tandem.judges.reward_model import RewardModel, Shaped
from tandem.machine import Machine
from tandem.methods import best_of_n, preference, raft, rest, reward, rso, sft
from tandem.methods.best_of_n import BestOfNConfig
from tandem.methods.dpo import DPOConfig
from tandem.methods.raft import RAFTConfig
from tandem.methods.rest import ReSTConfig
from tandem.methods.rso import RSOConfig
from tandem.methods.sft import SFTConfig
from tandem.models.forward import with_logprobs
from tandem.models.opening import open_policy
from tandem.models.tokenise import mark_tokenizer
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.early_stopping import ValidatedPolicy
from tandem.stages.evaluate_policy import evaluate_answers, kl_temperature
from tandem.stages.evaluate_rounds import evaluate_rounds
from tandem.stages.judging import judge
from tandem.stages.sampling import BestOf, sample
from tandem.statistics import best_of
from tandem.training.optim import Optim
from tandem.training.validation import Validation
from worlds import F2_A, F2_B, F2_BOS, F2_LAW, F2_REWARD, f2_model

ANSWERS = ("aa", "ab", "ba", "bb")
PI_REF = np.array([F2_LAW[y] for y in ANSWERS])
R = np.array([F2_REWARD[y] for y in ANSWERS])
P = 1 / (1 + np.exp(R[None, :] - R[:, None]))
PI_STAR = np.array([0.20887210, 0.66144328, 0.10814728, 0.02153734])
MACHINE = Machine(device="cpu", precision="fp32", save_seconds=1e9, log_every=1000)
TWO = Sampling(max_tokens=2)


def optim(lr: float = 0.02) -> Optim:
    return Optim(lr=lr, schedule="cosine", warmup=0.0, clip=None)


def whole(epochs: int = 28, lr: float = 0.05, **more: Any) -> SFTConfig:
    """Exact fitting: every step sees all answers."""
    return SFTConfig(epochs=epochs, batch=100_000, optim=optim(lr), **more)


def answer(y: str, weight: float = 1.0) -> Completion:
    ids = {"a": F2_A, "b": F2_B}
    tokens = np.array([ids[c] for c in y], np.int32)
    return Completion(y, tokens, stopped=False, weight=weight)


def asked(name: str) -> Prompt:
    return Prompt(name, "<bos>", tokens=np.array([F2_BOS], np.int32))


def enumerated(**more: Any) -> Group:
    """The prompt with its four answers, every pair labelled by its probability."""
    votes = [Preference(i, j, float(P[i, j])) for i in range(4) for j in range(i)]
    return Group(asked("x"), tuple(map(answer, ANSWERS)), preferences=tuple(votes), **more)


def prompts(folder: Path, count: int) -> Groups:
    whose = tokenizer_hash(load_tokenizer(folder))
    return Groups.of(mark_tokenizer(Group(asked(str(i))), whose) for i in range(count))


def law(policy: Checkpoint) -> np.ndarray:
    """Read the probabilities of the four answers off the weights."""
    (group,) = with_logprobs(open_policy(policy.path, MACHINE), [enumerated()])
    return np.exp([c.logp.sum(dtype=np.float64) for c in group.completions])


def shares(groups: Groups) -> np.ndarray:
    """Return the share of each answer among all completions."""
    texts = [c.text for g in groups for c in g.completions]
    return np.array([texts.count(y) for y in ANSWERS]) / len(texts)


def tv(p: np.ndarray, q: np.ndarray) -> float:
    return 0.5 * float(np.abs(p - q).sum())


def restricted(p: np.ndarray, tau: float) -> np.ndarray:
    return p * (tau < R) / (p * (tau < R)).sum()


@dataclass(frozen=True)
class Opposite:
    """Scores with the negative of another judge's score."""

    judge: Any
    name: str = "opposite"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in open_judge(self.judge, MACHINE)(groups):
            yield replace(group, scores=-group.scores)


@pytest.fixture(scope="module")
def pi_sft(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(f2_model(tmp_path_factory.mktemp("ref")), "SFT")


@pytest.fixture(scope="module")
def r_phi(pi_sft: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A reward model with r up to a constant."""
    with Run(tmp_path_factory.mktemp("reward"), machine=MACHINE) as run:
        cfg = reward.RewardConfig(epochs=250, batch=1, optim=optim())
        return run("reward", reward.fit, pi_sft, Groups.of([enumerated()]), cfg)


@pytest.fixture
def run(tmp_path: Path):
    with Run(tmp_path / "run", machine=MACHINE) as work:
        yield work


def stage(run: Run, name: str) -> Any:
    return next(r for r in run.records() if r.name == name).load()


# best-of-n -------------------------------------------------------------------------------------


def test_best_of_n_is_a_policy_with_its_exact_law(pi_sft, r_phi, run):
    """2,000 answers of best-of-4, drawn by the verb that draws from checkpoints."""
    x = prompts(pi_sft.path, 500)
    validation = Validation(x[:400], ())
    decoder = best_of_n.recipe(run, pi_sft, r_phi, TWO, validation, BestOfNConfig(n=4, pool=16))
    assert isinstance(decoder, BestOf)
    assert str(decoder) == "best-of-4"
    answers = run("answers", sample, decoder, x, n=4, sampling=TWO)
    assert {len(g) for g in answers} == {4}
    assert {c.author for g in answers for c in g.completions} == {"best-of-4"}
    exact = best_of.best_of_n_law(PI_REF, R, 4)
    assert tv(exact, PI_REF) > 0.4
    assert chisquare(2000 * shares(answers), 2000 * exact).pvalue > 1e-3


def test_the_curve_over_n_is_the_law_and_says_its_price(pi_sft, r_phi, run):
    """E r of the best of n within 4 standard errors for every n up to the pool; KL bound beside."""
    validation = Validation(prompts(pi_sft.path, 400), (("again", RewardModel(r_phi)),))
    best_of_n.recipe(run, pi_sft, r_phi, TWO, validation, BestOfNConfig(n=3, pool=16))
    rows = stage(run, "curve")["numbers"]
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 8, 16]
    for row in rows:
        wanted = float(best_of.best_of_n_law(PI_REF, R, row["n"]) @ (R - R.mean()))
        assert row["proxy"]["mean"] == pytest.approx(wanted, abs=4 * row["proxy"]["se"] + 0.02)
        assert row["again"]["mean"] == pytest.approx(row["proxy"]["mean"], abs=1e-6)
        assert row["KL at most"] == pytest.approx(best_of.kl_bound(row["n"]))
    assert "bound" in stage(run, "curve")["text"]


# RSO -------------------------------------------------------------------------------------------


def test_dedupe_is_the_same_for_every_source(pi_sft, r_phi, run):
    """Four texts are all that there are: each source pairs different ones, and keeps all it can.

    Of 16 draws `rso` and `sft` find the same candidates; `direct` loses its pair of equal answers.
    """
    x = prompts(pi_sft.path, 20)
    equal = Group(asked("e"), (answer("aa"), answer("aa"), answer("ab")),
                  preferences=(Preference(0, 1), Preference(2, 1)))  # fmt: skip
    D = Groups.of([equal, enumerated()])
    short = replace(rso_settings(), pool=16, keep=4, dedupe=True)
    short = replace(short, dpo=replace(short.dpo, epochs=1))
    different = {}
    for source in ("rso", "sft", "direct"):
        scope = run.scope(source, run.seed)
        rso.recipe(scope, pi_sft, x, D, r_phi, TWO, replace(short, source=source))
        trained_on = "distinct" if source == "direct" else "pairs"
        found = stage(scope, trained_on)
        different[source] = {g.id: {c.text for c in g.completions} for g in found}
        for g in found:
            assert len({c.text for c in g.completions}) == len(g)
            assert all(g.completions[v.i].text != g.completions[v.j].text for v in g.preferences)
    assert different["rso"] == different["sft"]
    assert sum(len(g.preferences) for g in found) == 1 + 6


def rso_settings(**more: Any) -> RSOConfig:
    cfg = DPOConfig(beta=0.5, epochs=120, batch=1000, optim=optim())
    return RSOConfig(ranker="reward", pairing="tournament", soft=True, dpo=cfg, **more)


def test_rso_reaches_the_optimum_and_its_data_are_near(pi_sft, r_phi, run):
    """gamma = beta and full-support pairs: pi*. Of 64, 8 are accepted, nearly by pi*'s law."""
    x = prompts(pi_sft.path, 100)
    D = Groups.of([enumerated()])
    policy = rso.recipe(run, pi_sft, x, D, r_phi, TWO, rso_settings())
    assert str(policy) == "RSO"
    accepted = stage(run, "accepted")
    assert {len(g) for g in accepted} == {8}
    assert tv(shares(accepted), PI_STAR) < 0.08 < tv(PI_REF, PI_STAR) / 4
    assert {len(g.preferences) for g in stage(run, "pairs")} == {7}
    assert tv(law(policy), PI_STAR) < 0.02
    seen = stage(run, "tilt")
    chance = float(PI_REF @ np.exp((R - 1) / 0.5))
    assert seen["acceptance"] == pytest.approx(chance, abs=0.03)
    assert 0.45 < seen["effective_beta"] < 0.75  # 8 of 64 lean towards pi_ref


@pytest.mark.parametrize("source", ["sft", pytest.param("rso", marks=pytest.mark.slow)])
def test_gamma_shapes_the_answer_and_the_source_does_not(source, pi_sft, r_phi, run):
    """With gamma = 1 the limit is pi_ref e^{r / 1} / Z, whichever tilt the pairs came from."""
    cfg = rso_settings(source=source)
    cfg = replace(cfg, dpo=replace(cfg.dpo, beta=1.0))
    x = prompts(pi_sft.path, 60)
    policy = rso.recipe(run, pi_sft, x, Groups.of([enumerated()]), r_phi, TWO, cfg)
    tilted = PI_REF * np.exp(R)
    assert tv(law(policy), tilted / tilted.sum()) < 0.02
    names = [r.name for r in run.records()]
    assert ("tilt" in names) == (source == "rso")
    assert len(stage(run, "pool")[0]) == (64 if source == "rso" else 8)
    assert {len(g.preferences) for g in stage(run, "pairs")} == {7}


@pytest.mark.slow
def test_rso_with_a_preference_model_as_its_ranker(pi_sft, r_phi, run):
    """rho_psi in place of r_phi, scored against three decodes: pi* again, as both know r.

    logit rho(x, y, y_b) = r(y) - r(y_b): the baselines shift a prompt's scores, no more.
    """
    cfg = replace(rso_settings(pool=32, baselines=3), ranker="preference")
    cfg = replace(cfg, preference=preference.PreferenceConfig(epochs=250, batch=1, optim=optim()))
    x = prompts(pi_sft.path, 60)
    policy = rso.recipe(run, pi_sft, x, Groups.of([enumerated()]), r_phi, TWO, cfg)
    assert [r.name for r in run.records()][:2] == ["ranker", "baselines"]
    assert tv(law(policy), PI_STAR) < 0.04


@pytest.mark.parametrize("soft", [False, True])
def test_the_ranker_labels_the_pairs_and_clipped_scores_do_not(soft, pi_sft, r_phi, run):
    """rho saturates where r is 20 times as large; r_psi ties at the clip, and rho_psi does not.

    With baselines bb (the worst) all other answers have r_psi = logit .99, while rho(ab, aa) is
    sigma(20). The labels are rho's own, rounded to clicks without `soft`; equal texts tie.
    """
    sure = 1 / (1 + np.exp(20 * (R[None, :] - R[:, None])))
    votes = tuple(Preference(i, j, float(sure[i, j])) for i in range(4) for j in range(i))
    D = Groups.of([replace(enumerated(), preferences=votes)])
    cfg = RSOConfig(pool=16, keep=8, soft=soft, dpo=DPOConfig(epochs=1, batch=100, optim=optim()))
    cfg = replace(cfg, preference=preference.PreferenceConfig(epochs=150, batch=1, optim=optim()))
    rso.recipe(run, pi_sft, prompts(pi_sft.path, 30), D, r_phi, TWO, cfg)
    ties = 0
    for met, labelled in zip(stage(run, "pairs"), stage(run, "labels"), strict=True):
        assert len(labelled.preferences) == len(met.preferences) == 4
        for before, vote in zip(met.preferences, labelled.preferences, strict=True):
            i, j = (ANSWERS.index(labelled.completions[k].text) for k in (vote.i, vote.j))
            ties += before.p == 0.5 and i != j
            wanted = sure[i, j] if soft else 0.5 + np.sign(sure[i, j] - 0.5) / 2
            assert vote.p == pytest.approx(wanted, abs=0.05 if soft else 0)
    assert ties > 5


def test_direct_is_dpo_on_the_comparisons_as_they_are(pi_sft, r_phi, run):
    cfg = rso_settings(source="direct")
    D = Groups.of([enumerated()])
    policy = rso.recipe(run, pi_sft, prompts(pi_sft.path, 3), D, r_phi, TWO, cfg)
    assert [r.name for r in run.records()] == ["policy"]
    assert tv(law(policy), PI_STAR) < 0.01


def test_a_recipe_again_keeps_every_stage(pi_sft, r_phi, tmp_path):
    cfg = RSOConfig(ranker="reward", pool=8, keep=4, dpo=DPOConfig(epochs=1, batch=4))
    given = (pi_sft, prompts(pi_sft.path, 6), Groups.of([enumerated()]), r_phi, TWO, cfg)

    def once() -> tuple[Checkpoint, list[tuple[str, int]]]:
        with Run(tmp_path / "again", machine=MACHINE) as work:
            policy = rso.recipe(work, *given)
            marks = [(r.name, (r.folder / "DONE").stat().st_mtime_ns) for r in work.records()]
            return policy, marks

    (first, marks), (second, after) = once(), once()
    assert marks == after
    assert [name for name, _ in marks] == "pool scores accepted tilt pairs policy".split()
    assert first.hash == second.hash


# RAFT ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_stages_of_raft_are_best_of_four(pi_sft, r_phi, run):
    """K = 2, T = 2, fitted to the end: best-of-4. 1,000 kept a stage: an error of TV .02 each."""
    cfg = RAFTConfig(stages=2, prompts=1000, k=2, sft=whole())
    policy = raft.recipe(run, pi_sft, prompts(pi_sft.path, 1000), r_phi, TWO, None, cfg)
    assert str(policy) == "RAFT-2"
    two, four = (best_of.best_of_n_law(PI_REF, R, n) for n in (2, 4))
    assert tv(law(stage(run, "policy-1")), two) < 0.05
    assert tv(law(policy), four) < 0.06 < tv(two, four) / 3


def test_global_ranking_with_one_prompt_s_law_keeps_the_top_share(pi_sft, r_phi, run):
    """Of all answers the best half: all ab (.18), all ba (.08), and aa up to one half.

    Rewards of the same answer are equal up to rounding, so the cut falls within aa.
    """
    cfg = RAFTConfig(stages=1, prompts=800, k=2, ranking="global", sft=whole())
    policy = raft.recipe(run, pi_sft, prompts(pi_sft.path, 800), r_phi, TWO, None, cfg)
    assert sum(map(len, stage(run, "kept-1"))) == 800
    assert tv(law(policy), np.array([0.48, 0.36, 0.16, 0.0])) < 0.06


def test_the_shaped_reward_takes_off_the_price(pi_sft, r_phi, tmp_path):
    """r - beta log(pi / pi_0), exactly, where pi has another first token; nothing at pi = pi_0."""
    pi = Checkpoint(f2_model(tmp_path / "pi", {"a": 0.9, "b": 0.1}))
    log_ratio = np.log([0.9 / 0.6, 0.9 / 0.6, 0.1 / 0.4, 0.1 / 0.4])
    whose = tokenizer_hash(load_tokenizer(pi_sft.path))
    group = [mark_tokenizer(enumerated(), whose)]
    r = RewardModel(r_phi)
    (plain,) = judge(group, r, machine=MACHINE)
    (shaped,) = judge(group, Shaped(r, pi, pi_sft, 0.7), machine=MACHINE)
    (same,) = judge(group, Shaped(r, pi_sft, pi_sft, 0.7), machine=MACHINE)
    np.testing.assert_allclose(shaped.scores, plain.scores - 0.7 * log_ratio, atol=1e-5)
    np.testing.assert_allclose(same.scores, plain.scores, atol=1e-6)


def at_temperature(first: dict[str, float], temperature: float) -> np.ndarray:
    """Return the law of F2's answers with these first tokens, each token tempered."""
    later = {"a": {"a": 0.7, "b": 0.3}, "b": {"a": 0.2, "b": 0.8}}

    def tempered(p: dict[str, float]) -> dict[str, float]:
        powers = {k: v ** (1 / temperature) for k, v in p.items()}
        return {k: v / sum(powers.values()) for k, v in powers.items()}

    head = tempered(first)
    return np.array([head[y[0]] * tempered(later[y[0]])[y[1]] for y in ANSWERS])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_kl_of_an_exam_is_read_at_the_sampling_temperature(pi_sft, tmp_path, temperature):
    """Each answer's number is log pi_T(y) / ref_T(y); their mean over pi_T's answers is the KL.

    Read at 1, answers of temperature .5 have a mean of .384 where the KL is .312.
    """
    first = {"a": 0.9, "b": 0.1}
    pi = Checkpoint(f2_model(tmp_path / "pi", first), "pi")
    mine, ref = (at_temperature(f, temperature) for f in (first, {"a": 0.6, "b": 0.4}))
    whose = tokenizer_hash(load_tokenizer(pi_sft.path))
    answers = Groups.of(
        mark_tokenizer(Group(asked(y), (answer(y),), scores=np.zeros(1)), whose) for y in ANSWERS
    )
    found = evaluate_answers(
        answers, answers, judges={}, comparers={}, policy=pi, opponent=pi_sft,
        temperature=kl_temperature(replace(TWO, temperature=temperature)), machine=MACHINE,
    )  # fmt: skip
    np.testing.assert_allclose(found["kl"], np.log(mine / ref), atol=1e-5)
    divergence = float(mine @ np.array(found["kl"]))
    assert divergence == pytest.approx(float(mine @ np.log(mine / ref)), abs=1e-5)
    if temperature == 0.5:
        plain = np.log(np.array([0.9, 0.9, 0.1, 0.1]) / np.array([0.6, 0.6, 0.4, 0.4]))
        assert float(mine @ plain) == pytest.approx(0.384, abs=1e-3)
        assert divergence == pytest.approx(0.312, abs=1e-3)


def test_rounds_are_as_far_as_their_samples_say(pi_sft, r_phi, tmp_path):
    """The KL of a round is read at the temperature too: each answer once, so the plain mean."""
    first = {"a": 0.9, "b": 0.1}
    pi = Checkpoint(f2_model(tmp_path / "pi", first), "pi")
    mine, ref = (at_temperature(f, 0.5) for f in (first, {"a": 0.6, "b": 0.4}))
    whose = tokenizer_hash(load_tokenizer(pi_sft.path))
    said = Groups.of(mark_tokenizer(Group(asked(y), (answer(y),)), whose) for y in ANSWERS)
    given = ((pi_sft, pi), (RewardModel(r_phi),), (said,), (), (said, said), None, None)
    start, after = evaluate_rounds(*given, temperature=0.5, machine=MACHINE)["numbers"]
    assert start["KL"] is None
    assert after["KL"]["mean"] == pytest.approx(float(np.log(mine / ref).mean()), abs=1e-5)
    greedy = evaluate_rounds(*given, temperature=None, machine=MACHINE)["numbers"]
    assert greedy[1]["KL"] is None


@pytest.mark.parametrize(
    "how", [{"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str
)
def test_answers_of_another_law_have_no_kl(pi_sft, tmp_path, how):
    """Greedy and truncated answers: the column is left out, and RAFT's price is refused."""
    sampling = replace(TWO, **how)
    assert kl_temperature(sampling) is None
    whose = tokenizer_hash(load_tokenizer(pi_sft.path))
    one = Groups.of([mark_tokenizer(Group(asked("x"), (answer("aa"),)), whose)])
    found = evaluate_answers(
        one, one, judges={}, comparers={}, policy=pi_sft, opponent=pi_sft,
        temperature=kl_temperature(sampling), machine=MACHINE,
    )  # fmt: skip
    assert set(found) == {"length"}
    with (
        Run(tmp_path / "run", machine=MACHINE) as run,
        pytest.raises(ConfigError, match=r"raft\.beta"),
    ):
        raft.recipe(run, pi_sft, one, pi_sft, sampling, None, RAFTConfig(beta=0.1, k=2))
    assert run.records() == []


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_shaped_reward_has_the_price_at_the_sampling_temperature(
    pi_sft, r_phi, tmp_path, temperature
):
    first = {"a": 0.9, "b": 0.1}
    pi = Checkpoint(f2_model(tmp_path / "pi", first))
    mine, ref = (at_temperature(f, temperature) for f in (first, {"a": 0.6, "b": 0.4}))
    whose = tokenizer_hash(load_tokenizer(pi_sft.path))
    r = RewardModel(r_phi)
    by = RAFTConfig(beta=0.7).reward(r, pi, pi_sft, replace(TWO, temperature=temperature))
    group = [mark_tokenizer(enumerated(), whose)]
    (plain,) = judge(group, r, machine=MACHINE)
    (shaped,) = judge(group, by, machine=MACHINE)
    np.testing.assert_allclose(shaped.scores, plain.scores - 0.7 * np.log(mine / ref), atol=1e-5)


@pytest.mark.slow
def test_the_second_stage_of_raft_pays_the_price(pi_sft, r_phi, run):
    """Stage 2 is best-of-2 of pi_1 by r - 5 log(pi_1 / pi_0): what became likelier now loses."""
    cfg = RAFTConfig(stages=2, prompts=800, k=2, beta=5.0, sft=whole())
    policy = raft.recipe(run, pi_sft, prompts(pi_sft.path, 800), r_phi, TWO, None, cfg)
    pi_1 = law(stage(run, "policy-1"))
    assert tv(law(policy), best_of.best_of_n_law(pi_1, R - 5 * np.log(pi_1 / PI_REF), 2)) < 0.06


def test_held_out_judges_say_which_stage_is_kept(pi_sft, r_phi, run):
    """A judge who likes what the filter throws away is best served by the start."""
    against = (("against", Opposite(RewardModel(r_phi))),)
    validation = Validation(prompts(pi_sft.path, 200), against, choose="against", patience=1)
    cfg = RAFTConfig(stages=3, prompts=300, k=4, sft=whole(20))
    policy = raft.recipe(run, pi_sft, prompts(pi_sft.path, 300), r_phi, TWO, validation, cfg)
    assert policy.hash == pi_sft.hash
    names = [r.name for r in run.records()]
    assert "policy-1" in names
    assert "policy-2" not in names  # patience 1: one stage without a new best is enough
    assert stage(run, "watch-1")["against"] < stage(run, "watch-0")["against"]


# ReST ------------------------------------------------------------------------------------------


def demonstrations(p: np.ndarray, count: int) -> Groups:
    """`count` prompts whose answers have the shares p exactly."""
    ys = np.repeat(ANSWERS, np.round(p * count).astype(int))
    return Groups.of(Group(asked(f"d{i}"), (answer(str(y)),)) for i, y in enumerate(ys))


@pytest.mark.parametrize("thresholds", [pytest.param((0.7,), marks=pytest.mark.slow), (0.3, 0.7)])
def test_rest_restricts_the_policy(thresholds, pi_sft, r_phi, run):
    """tau = .7 of [0, 1] is r > .4: pi_ref on {ab, ba} alone, with or without a step before."""
    cfg = ReSTConfig(
        improve=len(thresholds), n=2, thresholds=thresholds, mix=False, decay=1.0, sft=whole()
    )
    D = demonstrations(PI_REF, 500)
    policy = rest.recipe(run, pi_sft, D, r_phi, TWO, None, cfg)
    wanted = restricted(PI_REF, 0.4)
    np.testing.assert_allclose(wanted, [0, 0.18 / 0.26, 0.08 / 0.26, 0])
    assert str(policy) == f"ReST-G1I{len(thresholds)}"
    assert tv(law(policy), wanted) < 0.06
    kl = float((law(policy)[1:3] * np.log(law(policy)[1:3] / PI_REF[1:3])).sum())
    assert kl == pytest.approx(-np.log(0.26), abs=0.1)


def test_rest_mixes_the_original_data_in(pi_sft, r_phi, run):
    """One sample beside each demonstration, lambda = 1/2: (pi_ref + p_D) 1[r > tau] / Z."""
    p_D = np.array([0.1, 0.4, 0.4, 0.1])
    cfg = ReSTConfig(improve=1, n=1, thresholds=(0.7,), sft=whole())
    policy = rest.recipe(run, pi_sft, demonstrations(p_D, 1000), r_phi, TWO, None, cfg)
    wanted = restricted((PI_REF + p_D) / 2, 0.4)
    np.testing.assert_allclose(wanted[1:3], [0.29 / 0.53, 0.24 / 0.53])
    assert tv(law(policy), wanted) < 0.06
    assert tv(wanted, restricted(PI_REF, 0.4)) > 0.1


@pytest.mark.slow
def test_no_improve_is_cloning_of_everything(pi_sft, r_phi, run):
    """G1 I0: half samples, half demonstrations, nothing filtered."""
    p_D = np.array([0.1, 0.4, 0.4, 0.1])
    cfg = ReSTConfig(improve=0, n=1, sft=whole())
    policy = rest.recipe(run, pi_sft, demonstrations(p_D, 500), r_phi, TWO, None, cfg)
    assert str(policy) == "ReST-G1I0"
    assert tv(law(policy), (PI_REF + p_D) / 2) < 0.06


@pytest.mark.parametrize(
    ("said", "patience", "names", "grown_from", "best"),
    [
        ({"0": 1, "1-1": 6, "1-2": 2, "2-1": 4}, 1, "1-1 1-2 2-1", "1-1", "1-1"),
        ({"0": 9, "1-1": 1, "1-2": 2, "2-1": 3, "2-2": 1}, 3, "1-1 1-2 2-1 2-2", "1-2", "0"),
    ],
    ids=["patience", "no better"],
)
def test_a_grow_is_measured_against_what_it_samples_from(
    said, patience, names, grown_from, best, pi_sft, r_phi, run, monkeypatch
):
    """The second Grow goes on from the first's best Improve, and has to beat that one.

    `patience`: 4 beats the last Improve's 2, but not the 6 of the policy that the Grow sampled
    from: with a patience of one it ends. `no better`: a Grow whose Improves are all worse than
    what it began with goes on from the best of them, and the whole returns the best of all.
    """

    def numbers(run: Run, name: str, policy: Checkpoint, *_: Any) -> ValidatedPolicy:
        return ValidatedPolicy(policy, {"held_out": said[name.removeprefix("watch-")]})

    monkeypatch.setattr(rest, "run_validation", numbers)
    judges = (("held_out", RewardModel(r_phi)),)
    validation = Validation(prompts(pi_sft.path, 1), judges, choose="held_out", patience=patience)
    cfg = ReSTConfig(
        grow=2, improve=2, n=2, thresholds=(0.5, 0.7), sft=SFTConfig(steps=1, optim=optim())
    )
    policy = rest.recipe(run, pi_sft, demonstrations(PI_REF, 50), r_phi, TWO, validation, cfg)
    done = {r.name: r for r in run.records()}
    assert [n for n in done if n.startswith("policy")] == [f"policy-{n}" for n in names.split()]
    assert done["grown-2"].arguments["policy"]["name"] == f"ReST-G{grown_from[0]}I{grown_from[2]}"
    wanted = pi_sft if best == "0" else done[f"policy-{best}"].load()
    assert policy.hash == wanted.hash


def test_reward_weighted_imitation_reaches_the_optimum(pi_sft, run):
    """Answers with the shares of pi_ref and weights e^{r / eta}, eta = beta: pi*."""
    four = enumerated(scores=R)
    weighted = tuple(map(answer, ANSWERS, PI_REF))
    data = Groups.of([replace(four, completions=weighted)])
    cfg = whole(250, 0.02, loss="weighted", eta=0.5)
    assert tv(law(run("weighted", sft.fit, pi_sft, data, cfg)), PI_STAR) < 0.01


def test_gold_seeks_the_mode_of_what_is_rewarded(pi_sft, run):
    """GOLD climbs sum_t pi(y_t) R(y) over the data; imitation would stay at pi_ref."""
    data = Groups.of(
        [replace(enumerated(scores=R), completions=tuple(map(answer, ANSWERS, PI_REF)))]
    )
    found = law(run("gold", sft.fit, pi_sft, data, whole(150, loss="gold")))
    assert found[ANSWERS.index("ab")] > 0.9
