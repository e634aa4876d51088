"""Completions drawn on three machines of a Ray cluster; the machines are processes here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from climbing import FP32, Heard, Letters, prompts
from climbing import drawn as answered
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.open_engine import open_engine
from tandem.engines.torch import TorchEngine
from tandem.errors import EngineError
from tandem.judges import cluster_judge, open_judge
from tandem.judges.ensemble import Ensemble
from tandem.judges.reward_model import RewardModel
from tandem.machine import Lora, Machine
from tandem.methods import grpo
from tandem.models.opening import open_policy
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from tiny import folder, lm
from worlds import letters

ray: Any = pytest.importorskip("ray", reason="pip install 'tandem-rlhf[ray]'")
cluster_utils: Any = pytest.importorskip("ray.cluster_utils")
from tandem.engines.ray import worker_pool  # noqa: E402
from tandem.engines.ray.ray_engine import RayEngine  # noqa: E402
from tandem.engines.ray.worker_pool import AHEAD, ClusterPool  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.ray]
TESTS = Path(__file__).parents[1]
RAY = replace(FP32, engine="ray")
AHEAD_OF_IT = replace(RAY, rollouts_ahead=True)
ADAPTERS = replace(RAY, lora=Lora(rank=4, alpha=16.0))
STORE = 100_000_000
OPTIM = Optim(lr=3e-3, schedule="constant", warmup=0.0)
CFG = grpo.GRPOConfig(prompts=64, n=8, rounds=6, minibatch=32, beta=0.0, optim=OPTIM)
ASKED = 64


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{TESTS.parent / 'src'}:{TESTS}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        head = {"num_cpus": 1, "object_store_memory": STORE}
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=made.address, log_to_driver=False, include_dashboard=False)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def three(cluster: Any) -> Any:
    """The cluster with three machines, whatever a test before has done to it."""
    while len(cluster.list_all_nodes()) < 3:
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Troubled(ClusterPool):
    """At one result, something happens to the cluster while units are under way."""

    trouble: Any = None
    at = 20
    results = 0
    lost = 0

    def _result(self, ref: Any) -> Any:
        Troubled.results += 1
        if Troubled.results == Troubled.at and Troubled.trouble is not None:
            Troubled.trouble(self)
        found = super()._result(ref)
        Troubled.lost += isinstance(found, Exception)
        return found


def _trained(init: Path, place: Path, machine: Machine = RAY) -> tuple[str, list[dict[str, Any]]]:
    heard = Heard()
    ctx = StageContext.at(place, seed=Seed(5), events=heard, machine=machine)
    how = Sampling(max_tokens=6)
    made = grpo.fit(Checkpoint(init), prompts(init, ASKED), Letters(), CFG, sampling=how, ctx=ctx)
    rounds = [{k: v for k, v in line.items() if not k.endswith("_s")} for line in heard.of("round")]
    weights = Path(made.path) / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest(), rounds


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> type[Troubled]:
    monkeypatch.setattr(worker_pool, "ClusterPool", Troubled)
    monkeypatch.setattr(worker_pool, "_pools", [])
    Troubled.trouble, Troubled.at, Troubled.results, Troubled.lost = None, 20, 0, 0
    return Troubled


@pytest.mark.parametrize("machine", [RAY, AHEAD_OF_IT], ids=["in step", "ahead"])
def test_a_machine_that_is_killed_changes_no_weight(
    machine: Machine, three: Any, troubled: type[Troubled], tmp_path: Path
) -> None:
    """kill -9 of a machine's processes in the middle of a round of GRPO."""
    init = folder(tmp_path / "init", "llama-tied", head_dim=32)
    calm = _trained(init, tmp_path / "calm", machine)

    def kill(pool: Troubled) -> None:
        [victim, *_] = (n for n in three.list_all_nodes() if n is not three.head_node)
        three.remove_node(victim, allow_graceful=False)

    troubled.results, troubled.trouble = 0, kill
    hurt = _trained(init, tmp_path / "hurt", machine)
    print(f"{troubled.lost} units were lost and drawn again; {calm[0]} {hurt[0]}")
    assert troubled.lost > 0
    assert len(three.list_all_nodes()) == 2
    assert hurt == calm


def test_a_worker_that_is_killed_changes_no_draw(
    three: Any, troubled: type[Troubled], tmp_path: Path
) -> None:
    init = folder(tmp_path / "init", "llama", head_dim=32)
    policy, tokenizer = open_policy(init, RAY), load_tokenizer(init)

    def kill(pool: Troubled) -> None:
        ray.kill(next(iter(pool._workers.values())))

    troubled.trouble, troubled.at = kill, 3
    engine = RayEngine(policy.lm, tokenizer, unit_rows=16)
    drawn = _drawn(engine, prompts(init, 60))
    assert troubled.lost > 0
    three.add_node(num_cpus=1, object_store_memory=STORE)
    three.wait_for_nodes()
    assert drawn == _drawn(engine, prompts(init, 60))
    assert len(engine.pool._workers) == 4, (
        "the lost one is replaced, and a machine that joined is used"
    )
    engine.close()


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2"])
def test_it_draws_what_our_engine_draws(three: Any, kind: str, tmp_path: Path) -> None:
    """The same tokens, and log-probabilities but for rounding; adapters are merged first."""
    init = folder(tmp_path / "init", kind)
    machine = RAY if kind == "gpt2" else ADAPTERS
    policy, tokenizer = open_policy(init, machine), load_tokenizer(init)
    engine = open_engine(policy, tokenizer, machine)
    if machine.lora:
        with torch.no_grad():
            for name, parameter in policy.lm.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(0, 0.3)
    engine.load(policy.lm)
    asked, ours = prompts(init, 40), TorchEngine(policy.lm, tokenizer)
    for a, b in zip(_drawn(engine, asked), _drawn(ours, asked), strict=True):
        assert a[:2] == b[:2]
        np.testing.assert_allclose(np.concatenate(a[2]), np.concatenate(b[2]), atol=1e-4)
    assert isinstance(engine, RayEngine)
    engine.close()


def _reward(place: Path, seed: int) -> Checkpoint:
    model = lm("llama", seed, hf.AutoModelForSequenceClassification, num_labels=1)
    model.config.tandem = {"gain": 2.0, "bias": 0.5}
    model.save_pretrained(place)
    letters(41).save_pretrained(place)
    return Checkpoint(place, place.name)


def test_judges_score_on_all_machines(
    three: Any, troubled: type[Troubled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As here but for rounding; from files that were sent, and the same when a worker is lost."""
    monkeypatch.setattr(cluster_judge, "UNIT_ROWS", 8)
    models = [_reward(tmp_path / f"r{k}", k) for k in range(2)]
    judge = Ensemble(tuple(RewardModel(c) for c in models))
    asked = answered(folder(tmp_path / "init"), 4, 60)
    here = _scores(open_judge(judge, FP32), asked)
    there = open_judge(judge, RAY)
    for model in models:
        model.path.rename(model.path.with_name(f"{model.path.name}-gone"))
    calm = _scores(there, asked)
    np.testing.assert_allclose(calm, here, atol=1e-5)
    assert np.std(calm) > 0

    def kill(pool: Troubled) -> None:
        ray.kill(next(iter(pool._workers.values())))

    troubled.trouble, troubled.at = kill, troubled.results + 2
    assert np.array_equal(_scores(there, asked), calm)
    assert troubled.lost > 0


def _scores(judge: Any, asked: list[Group]) -> Any:
    return np.array([g.scores for g in judge(asked)])


def test_a_judge_without_models_stays_here(three: Any) -> None:
    assert isinstance(open_judge(Letters(), RAY), Letters)


def test_what_a_worker_refuses_is_said_as_our_engine_says_it(three: Any, tmp_path: Path) -> None:
    init = folder(tmp_path / "init", "llama")
    engine = RayEngine(open_policy(init, RAY).lm, load_tokenizer(init))
    with pytest.raises(EngineError, match="prompt `empty` has no tokens"):
        list(engine.sample([Group(Prompt("empty", ""))], 2, Sampling(max_tokens=2), Seed(0)))
    engine.close()


def test_prompts_are_taken_as_answers_are_read(three: Any, tmp_path: Path) -> None:
    """However many prompts there are, a bounded number is under way or waits in memory."""
    init = folder(tmp_path / "init", "llama")
    engine, taken = RayEngine(open_policy(init, RAY).lm, load_tokenizer(init), unit_rows=4), [0]

    def endless() -> Iterator[Group]:
        while True:
            for group in prompts(init, 8):
                taken[0] += 1
                yield group

    drawn: Any = engine.sample(endless(), 4, Sampling(max_tokens=2), Seed(0))
    for read in range(1, 30):
        next(drawn)
        assert taken[0] <= read + AHEAD * len(three.list_all_nodes()) + 1
    drawn.close()
    engine.close()


def _drawn(engine: Any, asked: Any) -> list[Any]:
    found = engine.sample(asked, 4, Sampling(max_tokens=8), Seed(1))
    return [
        (
            g.id,
            [(c.text, c.tokens.tolist()) for c in g.completions],
            [np.asarray(c.logp).tolist() for c in g.completions],
        )
        for g in found
    ]
