"""What every engine promises: order, ids, seeds, prefixes, lengths, honest log-probabilities."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy.stats import chisquare
from transformers import AutoTokenizer

import worlds
from tandem.data.record import Group, Prompt
from tandem.engines import Engine, Sampling
from tandem.engines.open_engine import open_engine
from tandem.engines.torch import TorchEngine
from tandem.machine import Machine
from tandem.models.opening import open_policy
from tandem.rng import Seed


def _torch(folder: Path) -> Engine:
    return TorchEngine(folder, AutoTokenizer.from_pretrained(folder), unit_rows=8, max_rows=4)


def _torch_mixture(folder: Path) -> Engine:
    return TorchEngine(folder, AutoTokenizer.from_pretrained(folder), mixture=(folder, 0.5))


def _static(folder: Path) -> Engine:
    """Fixed shapes, which a GPU replays as CUDA graphs."""
    return TorchEngine(folder, AutoTokenizer.from_pretrained(folder), compiled=True, max_rows=4)


def _elsewhere(name: Literal["vllm", "ray"]) -> Callable[[Path], Engine]:
    """A vLLM server over loopback, or a Ray cluster of this machine.

    It has drawn from other weights, and was then given these ones in place.
    """

    def opened(folder: Path) -> Engine:
        machine = Machine(device="cpu", precision="fp32", engine=name)
        prompt = Group(Prompt("first", "", tokens=np.array([1], np.int32)))
        with tempfile.TemporaryDirectory() as place:
            even = dict.fromkeys("ab", 0.5)
            other = open_policy(worlds.f2_model(Path(place), even, head_dim=32), machine)
            engine = open_engine(other, AutoTokenizer.from_pretrained(folder), machine)
            list(engine.sample([prompt], 1, Sampling(max_tokens=1), Seed(0)))
        engine.load(open_policy(folder, machine).lm)
        return engine

    return opened


ENGINES: dict[str, Callable[[Path], Engine]] = {
    "torch": _torch,
    "torch mixture": _torch_mixture,
    "static": _static,
    "vllm": _elsewhere("vllm"),
    "ray": _elsewhere("ray"),
}
ELSEWHERE = {
    "vllm": [pytest.mark.vllm, pytest.mark.slow],
    "ray": [pytest.mark.ray, pytest.mark.slow],
}
ALL = [pytest.param(name, marks=ELSEWHERE.get(name, [])) for name in ENGINES]


@pytest.fixture(scope="module", params=ALL)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    if request.param == "vllm" and not os.environ.get("TANDEM_VLLM"):
        pytest.skip("TANDEM_VLLM names no Python with vLLM")
    if request.param == "ray":
        pytest.importorskip("ray", reason="pip install 'tandem-rlhf[ray]'")
    made = ENGINES[request.param](worlds.f2_model(tmp_path_factory.mktemp("f2"), head_dim=32))
    yield made
    if hasattr(made, "close"):
        made.close()


@pytest.fixture
def prompts() -> list[Group]:
    tokens = ([1], [1, 3], [1, 4, 4], [1, 3, 3, 4], [1])
    return [
        Group(Prompt(f"p{i}", "", tokens=np.array(t, np.int32), meta={"place": i}))
        for i, t in enumerate(tokens)
    ]


def test_groups_come_back_in_order_with_n_completions(engine: Engine, prompts: list[Group]) -> None:
    groups = list(engine.sample(iter(prompts), 3, Sampling(max_tokens=4), Seed(0)))
    assert [g.id for g in groups] == [g.id for g in prompts]
    assert [g.prompt.meta["place"] for g in groups] == [0, 1, 2, 3, 4]
    for answer in (c for g in groups for c in g.completions):
        assert answer.tokens.dtype == np.int32
        assert answer.logp is not None
        assert answer.logp.dtype == np.float32
        assert len(answer.logp) == len(answer.tokens) == len(answer.text) == 4
        assert not answer.stopped
        assert answer.author
    assert all(len(g) == 3 for g in groups)


def test_the_same_seed_draws_the_same_and_prefixes_agree(
    engine: Engine, prompts: list[Group]
) -> None:
    def texts(groups: list[Group], n: int, seed: int) -> dict[str, list[str]]:
        drawn = engine.sample(groups, n, Sampling(max_tokens=6), Seed(seed))
        return {g.id: [c.text for c in g.completions] for g in drawn}

    five = texts(prompts, 5, 1)
    assert texts(prompts, 5, 1) == five
    assert texts(prompts[::-1], 5, 1) == five
    assert texts(prompts, 2, 1) == {k: v[:2] for k, v in five.items()}
    assert texts(prompts, 5, 2) != five
    assert five["p0"] != five["p4"]  # the same tokens under another id


def test_logp_is_the_law(engine: Engine, prompts: list[Group]) -> None:
    """F2 is a chain: the probability of a letter depends on the letter before it alone."""
    for group in engine.sample(prompts, 4, Sampling(max_tokens=5), Seed(2)):
        before = {1: "", 3: "a", 4: "b"}[int(group.prompt.tokens[-1])]
        for answer in group.completions:
            last, want = before, []
            for letter in answer.text:
                rule = worlds.F2_AFTER[last] if last else worlds.F2_FIRST
                want.append(np.log(rule[letter]))
                last = letter
            np.testing.assert_allclose(answer.logp, want, atol=1e-4)


def test_a_stop_string_ends_a_completion(engine: Engine, prompts: list[Group]) -> None:
    sampling = Sampling(max_tokens=12, stop=("ab",))
    for answer in (c for g in engine.sample(prompts, 4, sampling, Seed(3)) for c in g.completions):
        assert answer.stopped == answer.text.endswith("ab")
        assert answer.stopped or len(answer.tokens) == 12
        assert "ab" not in answer.text[:-1]


def test_greedy_takes_the_likeliest(engine: Engine, prompts: list[Group]) -> None:
    groups = list(engine.sample(prompts, 2, Sampling(temperature=0, max_tokens=3), Seed(0)))
    assert [[c.text for c in g.completions] for g in groups] == [
        ["aaa"] * 2,
        ["aaa"] * 2,
        ["bbb"] * 2,
        ["bbb"] * 2,
        ["aaa"] * 2,
    ]


def test_draws_have_the_law_of_the_model(engine: Engine) -> None:
    """Chi-square of the first two letters of 1,500 draws: every engine draws from one law."""
    prompt = Group(Prompt("law", "", tokens=np.array([1], np.int32)))
    [group] = engine.sample([prompt], 1500, Sampling(max_tokens=2), Seed(5))
    seen = Counter(c.text for c in group.completions)
    law = {
        a + b: worlds.F2_FIRST[a] * p
        for a in worlds.F2_FIRST
        for b, p in worlds.F2_AFTER[a].items()
    }
    likely = {text: p for text, p in law.items() if p * 1500 >= 5}
    assert set(seen) <= set(law)
    counts = [seen[text] for text in likely]
    expected = np.array(list(likely.values())) * sum(counts) / sum(likely.values())
    assert chisquare(counts, expected).pvalue > 1e-4


def test_truncation_and_temperature_change_the_law(engine: Engine, prompts: list[Group]) -> None:
    """With top_k = 1 a draw is greedy, and its log-probability after truncation is 0."""
    groups = list(engine.sample(prompts, 2, Sampling(top_k=1, max_tokens=3), Seed(1)))
    greedy = list(engine.sample(prompts, 2, Sampling(temperature=0, max_tokens=3), Seed(0)))
    for one, other in zip(groups, greedy, strict=True):
        assert [c.text for c in one.completions] == [c.text for c in other.completions]
        for c in (*one.completions, *other.completions):
            np.testing.assert_allclose(c.logp, 0.0, atol=1e-6)
