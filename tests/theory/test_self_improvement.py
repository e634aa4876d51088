"""LMSI and STaR obey docs/theory/self_improvement.md, on worlds whose answers are known.

The small world is F1 through real models: after [bos] one of a, b, c, d with probabilities
.4, .3, .2, .1. Paths a and c arrive at "x", b at "y", and d states no answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

import tiny
from climbing import Heard
from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.data.verifiable import PromptStyle, QuestionFormat, StatedAnswer
from tandem.engines import Sampling
from tandem.evaluation import confidence_auroc, majority_answers, vote_share
from tandem.judges.agreement import Agreement, SameAnswer
from tandem.judges.answer_key import AnswerKey
from tandem.machine import Machine
from tandem.methods import lmsi, star
from tandem.methods.lmsi import LMSIConfig
from tandem.methods.sft import SFTConfig
from tandem.methods.star import STaRConfig
from tandem.models.forward import with_logprobs
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.tokenise import mark_tokenizer
from tandem.models.tokenizers import load_tokenizer
from tandem.objectives.nll import nll
from tandem.operators import above, best, correct, incorrect, majority
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.records import Record
from tandem.runs.run import Run
from tandem.tasks.micro import Micro
from tandem.tasks.micro.arithmetic import WORDING as MICRO
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource
from worlds import f1_model

ARRIVES = {"a": "x", "c": "x", "b": "y"}
ONE = Sampling(max_tokens=1)
MACHINE = Machine(device="cpu", precision="fp32")


@dataclass(frozen=True)
class Arrives:
    """Reads F1's letters."""

    def __call__(self, text: str) -> str:
        return ARRIVES.get(text, "")


LETTERS = QuestionFormat(
    Arrives(), (PromptStyle("plain"),), layout="{question}", hint="", statement="{answer}"
)


def voted(texts: list[str]) -> Group:
    group = Group(Prompt("x", "?"), tuple(map(Completion, texts)))
    return next(Agreement(SameAnswer())([group]))


@pytest.mark.parametrize(
    ("p", "m", "right"),
    [(0.6, 5, 0.6826), (0.6, 15, 0.7869), (0.6, 31, 0.8716),
     (0.4, 5, 0.3174), (0.4, 15, 0.2131), (0.4, 31, 0.1284)],
)  # fmt: skip
def test_voting_helps_above_one_half_and_hurts_below(p: float, m: int, right: float):
    """P(majority right) = sum over k of Binomial(m, p)(k) 1[the vote of k right ones is right]."""
    total = 0.0
    for k in range(m + 1):
        group = voted(["#### 1"] * k + ["#### 0"] * (m - k))
        (kept,) = majority()([group], Seed(0))
        assert {c.text for c in kept.completions} == {
            majority_answers([group])[0].completions[0].text
        }
        total += float(binom.pmf(k, m, p)) * (kept.completions[0].text == "#### 1")
    assert total == pytest.approx(right, abs=5e-5)


def test_confidence_tells_right_majorities_from_wrong_ones():
    """Questions of accuracy p ~ U(.1, .9), wrong answers spread over four: AUROC well over .5.

    With confidence shuffled among the questions nothing is left: .5 within four standard errors
    (1,000 questions, at most sqrt((n + 1) / 12 n+ n-) = .02 each).
    """
    rng, groups = np.random.default_rng(0), []
    for p in rng.uniform(0.1, 0.9, 1000):
        said = np.where(rng.random(15) < p, 9, rng.integers(0, 4, 15))
        groups.append(voted([f"#### {a}" for a in said]))
    right = np.array(
        [g.completions[0].text == "#### 9" for g in majority_answers(groups)], np.float64
    )
    sure = vote_share(groups)
    found = confidence_auroc(sure, right)
    assert found is not None
    assert found > 0.8
    assert abs(confidence_auroc(rng.permutation(sure), right) - 0.5) < 0.08
    assert confidence_auroc(sure, np.ones(1000)) is None


def test_a_vote_among_answers_that_nobody_states():
    silent = voted(["one", "two"])
    assert vote_share([silent]).tolist() == [0.0]
    assert majority_answers([silent])[0].completions[0].text == "one"
    assert list(majority()([silent], Seed(0))) == []


def bos(n: int = 1, **meta: object) -> Groups:
    return Groups.of(Group(Prompt(f"q{i}", "<bos>", meta=dict(meta))) for i in range(n))


def law(policy: Checkpoint) -> np.ndarray:
    """Probabilities of a, b, c, d after [bos]."""
    ids = [np.array([t], np.int32) for t in range(3, 7)]
    answers = tuple(Completion(y, t) for y, t in zip("abcd", ids, strict=True))
    whose = tokenizer_hash(load_tokenizer(policy.path))
    prompt = Prompt("x", "<bos>", tokens=np.array([1], np.int32))
    asked = mark_tokenizer(Group(prompt, answers), whose)
    (seen,) = with_logprobs(open_policy(policy.path, MACHINE), [asked])
    return np.exp([float(c.logp[0]) for c in seen.completions])


def improved(
    folder: Path, base: Checkpoint, prompts: Groups, m: int = 4000
) -> tuple[Run, Checkpoint]:
    fit = SFTConfig(steps=150, batch=1, optim=Optim(lr=0.02, warmup=0.0, clip=None))
    with Run(folder, 0, machine=MACHINE) as run:
        cfg = LMSIConfig(m=m, temperature=1.0, sft=fit)
        return run, lmsi.recipe(run, base, prompts, LETTERS, ONE, cfg)


def test_lmsi_conditions_the_policy_on_its_majority(tmp_path: Path):
    """Fitted to the majority's paths, pi(y) becomes pi_0(y) 1[y -> x] / pi_0(-> x).

    x has mass .6: the limit is (2/3, 0, 1/3, 0). The fit minimises the cross-entropy from the
    4,000 samples' own shares, so it agrees with those within .005, and they with the law within
    4 sqrt(2/9 / 2400) = .04.
    """
    base = Checkpoint(f1_model(tmp_path / "base"), "base")
    run, policy = improved(tmp_path / "run", base, bos())
    assert law(base) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-5)
    (kept,) = next(r for r in run.records() if r.name == "agreed").load()
    share = [np.mean([c.text == y for c in kept.completions]) for y in "abcd"]
    assert law(policy) == pytest.approx(share, abs=5e-3)
    assert law(policy) == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=0.045)


def test_lmsi_does_the_same_whatever_the_key_says(tmp_path: Path):
    """Two runs on the same questions with different keys: every stage after the first is equal."""
    base = Checkpoint(f1_model(tmp_path / "base"), "base")
    found = [
        improved(tmp_path / answer, base, bos(2, answer=answer), m=20)[0].records()
        for answer in ("x", "y")
    ]
    for one, other in zip(*found, strict=True):
        assert one.name == other.name
        assert one.name == "questions" or one.arguments == other.arguments
        assert one.result.get("hash") == other.result.get("hash")
    assert found[0][-1].result["hash"] != base.hash
    assert all(g.prompt.meta == {} for g in found[0][0].load())


def test_lmsi_keeps_a_question_of_which_one_path_fits(tmp_path: Path):
    """31 of 32 paths are equal and fit, the other one agrees and is longer than the context."""
    base = Checkpoint(tiny.folder(tmp_path / "base", max_position_embeddings=12), "base")
    long = "b" * 20 + "#### 1"
    agreed = voted(["a#### 1"] * 31 + [long])
    wording = QuestionFormat(StatedAnswer(), (PromptStyle("plain"),), layout="{question}", hint="")
    question = Groups.of([Group(Prompt("x", "q"))])
    events = Heard()
    (kept,) = lmsi.in_forms(
        Groups.of([agreed]), question, wording, wording.forms, base, events=events
    )
    assert [(c.text, c.weight) for c in kept.completions] == [("a#### 1", 31.0)]
    assert "dropped 1 completions" in events.of("encoded")[0]["text"]


HINT = " (the answer is 1)"
SUMS = QuestionFormat(StatedAnswer(), (PromptStyle("plain"),), layout="{question}", hint=HINT)


def scripted(
    policy: Checkpoint, prompts: Groups, *, n: int, sampling: Sampling, seed: Seed
) -> Iterator[Group]:
    """Answer right with probability .5, and with .4 when the hint is there."""
    assert (n, sampling.temperature) == (1, 0.0)
    for group in prompts:
        chance = 0.4 if HINT in group.prompt.text else 0.5
        lucky = seed.at(group.id).uniform() < chance
        text = "#### 1" if lucky else "#### 0"
        yield replace(group, completions=(Completion(text, np.array([5], np.int32)),))


def test_a_scripted_generator_fills_the_share_that_theory_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """E|D_n| / N = a + (1 - a) b = .5 + .5 * .4 = .7, within 4 sqrt(.7 * .3 / 3000) = .034."""
    monkeypatch.setattr(star, "sample", scripted)
    base = Checkpoint(tiny.folder(tmp_path / "base"), "base")
    x = Groups.of(Group(Prompt(f"q{i}", "<bos>", meta={"answer": 1})) for i in range(3000))
    cfg = STaRConfig(loops=1, steps=1)
    with Run(tmp_path / "run", 0, machine=MACHINE) as run:
        star.recipe(run, base, x, SUMS, AnswerKey(SUMS.read), ONE, cfg)
        sizes = {r.name: r.result["prompts"] for r in run.records() if "prompts" in r.result}
    assert sizes["right-1"] + sizes["wrong-1"] == 3000
    assert (sizes["right-1"] + sizes["rationalised-1"]) / 3000 == pytest.approx(0.7, abs=0.034)


def test_a_hinted_question_is_put_in_its_form_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Behind the worked examples, before the layout's last words, as `ask_with_hint` says."""
    monkeypatch.setattr(star, "sample", scripted)
    form = PromptStyle("shown", shots=(("0", "#### 0"),), suffix=" !")
    wording = QuestionFormat(StatedAnswer(), (form,), layout="Q {question} A", hint=HINT)
    base = Checkpoint(tiny.folder(tmp_path / "base"), "base")
    x = Groups.of(Group(Prompt(f"q{i}", "<bos>", meta={"answer": 1})) for i in range(20))
    with Run(tmp_path / "run", 0, machine=MACHINE) as run:
        star.recipe(
            run, base, x, wording, AnswerKey(wording.read), ONE, STaRConfig(loops=1, steps=1)
        )
        hinted = next(r for r in run.records() if r.name == "hinted-1").load()
    texts = {g.prompt.text for g in hinted}
    assert texts == {wording.ask_with_hint(x[0].prompt, form).text}
    assert texts == {"Q 0 A #### 0\n\nQ <bos> !" + HINT + " A"}


RIGHT: dict[str, int] = {}
"""How many of the questions each model answers right; what is left for models not met before."""
TO_COME: list[int] = []


def known(policy: Checkpoint, prompts: Groups, *, n: int, sampling: Sampling) -> Iterator[Group]:
    """Answer the first questions right, as many as were scripted for this model."""
    right = RIGHT[policy.hash] if policy.hash in RIGHT else TO_COME.pop(0)
    RIGHT[policy.hash] = right
    for i, group in enumerate(prompts):
        text = "#### 1" if i < right else "#### 0"
        yield replace(group, completions=(Completion(text, np.array([5], np.int32)),))


@pytest.mark.parametrize(
    ("right", "gain", "fitted", "best"),
    [
        ([5, 6, 6, 9], 0.0, 2, "model-1"),
        ([5, 7, 6], 0.0, 2, "model-1"),
        ([5, 4], 0.0, 1, "base"),
        ([5, 7, 8], 0.15, 2, "model-2"),
        ([5, 6, 7, 8], 0.0, 3, "model-3"),
        ([5, 6, 7, 6], 0.0, 3, "model-2"),
        ([5, 4, 3, 2], -1.0, 3, "base"),
    ],
    ids=["plateau", "fall", "never better", "too little", "all loops", "last falls", "never stops"],
)
def test_star_ends_on_a_plateau_with_the_best_measured_model(
    right, gain, fitted, best, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ten questions; `right` by M_0, M_1, ...; loop n answers them with M_{n-1}, n <= 3.

    After the third loop M_3 answers them too: a model that nobody measured is never returned.
    """
    monkeypatch.setattr(star, "sample", known)
    monkeypatch.setattr(f"{__name__}.RIGHT", {})
    monkeypatch.setattr(f"{__name__}.TO_COME", list(right))
    base = Checkpoint(tiny.folder(tmp_path / "base"), "base")
    x = Groups.of(Group(Prompt(f"q{i}", "<bos>", meta={"answer": 1})) for i in range(10))
    fit = SFTConfig(batch=8, optim=Optim(lr=1e-3))
    cfg = STaRConfig(loops=3, gain=gain, rationalise=False, steps=1, growth=2, warmup=0, sft=fit)
    with Run(tmp_path / "run", 0, machine=MACHINE) as run:
        policy = star.recipe(run, base, x, SUMS, AnswerKey(SUMS.read), ONE, cfg)
        done = {r.name: r.load() for r in run.records() if r.name.startswith("model")}
    assert len(done) == fitted
    assert policy.hash == {"base": base, **done}[best].hash
    assert policy.hash in RIGHT
    assert RIGHT[policy.hash] == max(RIGHT.values())


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, dict[str, Record]]:
    """Two loops of STaR on the micro base, 40 problems, two steps and three."""
    task = Micro("arithmetic")
    base = Checkpoint(task.model(), "base")
    x = task.prompts("unlabelled", 40, Seed(0))
    fit = SFTConfig(batch=8, optim=Optim(lr=1e-3))
    cfg = STaRConfig(loops=2, gain=-1, steps=2, growth=1.5, warmup=0, sft=fit)
    with Run(tmp_path_factory.mktemp("star"), 0, machine=MACHINE) as run:
        star.recipe(run, base, x, MICRO, task.truth(), Sampling(max_tokens=32), cfg)
        return base, {r.name: r for r in run.records()}


@pytest.mark.parametrize("n", [1, 2])
def test_every_model_starts_from_the_base(bootstrapped: tuple[Checkpoint, dict[str, Record]], n):
    base, done = bootstrapped
    fit = done[f"model-{n}"].arguments
    assert fit["init"]["checkpoint"] == base.hash
    assert fit["cfg"]["steps"] == {1: 2, 2: 3}[n]
    later = done["tried-2"].arguments["policy"]["checkpoint"]
    assert later == done["model-1"].result["hash"] != base.hash


@pytest.mark.parametrize("n", [1, 2])
def test_right_and_rationalised_part_the_questions(bootstrapped, n):
    """Disjoint, and together what is trained on; wrong ones are all that was hinted."""
    _, done = bootstrapped
    right, wrong, second = (
        done[f"{name}-{n}"].load() for name in ("right", "wrong", "rationalised")
    )
    ids = [{g.id for g in groups} for groups in (right, wrong, second)]
    assert ids[0] | ids[1] == {g.id for g in done["asked"].load()}
    assert not ids[0] & ids[1]
    assert ids[2] <= ids[1]
    assert {g.id for g in done[f"hinted-{n}"].load()} == ids[1]
    assert done[f"model-{n}"].arguments["data"]["groups"] == (right + second).hash


def test_no_training_prompt_holds_a_hint(bootstrapped):
    """Hints were there when rationales were drawn; their tokens are gone when they are learned."""
    _, done = bootstrapped
    asked = {g.id: g.prompt for g in done["asked"].load()}
    for n in (1, 2):
        assert all("hint" in g.prompt.text for g in done[f"hinted-{n}"].load())
        for g in [*done[f"right-{n}"].load(), *done[f"rationalised-{n}"].load()]:
            assert "hint" not in json.dumps([g.prompt.text, g.prompt.messages])
            assert g.prompt.tokens.tolist() == asked[g.id].tokens.tolist()
            assert MICRO.read(g.completions[0].text) == str(g.prompt.meta["answer"])


def test_steps_grow_by_a_fifth_a_loop():
    """floor(40 * 1.2^(n - 1)); the rate climbs to lr over 100 steps, or as far as they go."""
    steps = [STaRConfig().training(n).steps for n in range(1, 8)]
    assert steps == [40, 48, 57, 69, 82, 99, 119]
    assert steps == [math.floor(40 * 1.2**n) for n in range(7)]
    first, late = STaRConfig().training(1).optim, STaRConfig().training(7).optim
    assert (first.lr, first.warmup) == (pytest.approx(0.4e-6), 1.0)
    assert (late.lr, late.warmup) == (1e-6, pytest.approx(100 / 119))


def sft_loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
    return {"nll": nll(out.logp, weight=batch.weight)}


@pytest.mark.parametrize("n", [1, 4])
def test_without_rationalisation_it_is_rest_with_r_1_if_correct(n: int):
    """STaR's kept set gives the gradient of ReST at any threshold in [0, 1), and of 1[right] nll.

    With one completion a prompt it is RAFT's as well, where RAFT's best is right at all.
    """
    rng = np.random.default_rng(n)
    scored = [
        replace(tiny.group(f"g{i}", rng, 5, [4] * n), scores=rng.integers(0, 2, n).astype(float))
        for i in range(8)
    ]
    weighed = [
        replace(
            g,
            completions=tuple(
                replace(c, weight=float(r)) for c, r in zip(g.completions, g.scores, strict=True)
            ),
        )
        for g in scored
    ]
    model = PackedModel(tiny.lm())

    def gradient(groups: list[Group]):
        data = Groups.of(groups)
        source = DatasetSource(data, size=99, epochs=1, seed=Seed(0), layout="rows", tokens=4096)
        return tiny.gradient(model, next(source.steps(model)), sft_loss)

    mine = gradient(list(correct()(scored, Seed(0))))
    tiny.close(gradient(list(above(tau=0.5)(scored, Seed(0)))), mine, 1e-6)
    tiny.close(gradient(list(above(tau=0.0)(scored, Seed(0)))), mine, 1e-6)
    tiny.close(gradient(weighed), mine)
    if n == 1:
        right = [g for g in best()(scored, Seed(0)) if g.scores.all()]
        tiny.close(gradient(right), mine, 1e-6)
    wrong = {g.id for g in incorrect()(scored, Seed(0))}
    assert wrong == {g.id for g in scored} - {g.id for g in correct()(scored, Seed(0))}
