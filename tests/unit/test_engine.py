"""The PyTorch engine: the right tokens, from the right law, with the right log-probabilities."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import worlds
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.cuda_graphs import CudaGraphDecoder
from tandem.engines.hf_cache import HFCacheDecoder
from tandem.engines.language_models.local import LocalModel
from tandem.engines.shared_prefix import SharedPrefixDecoder, shared_prefix_attention
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, EngineError, ModelError
from tandem.kernels.attention import COMPILED, IMPLEMENTATION
from tandem.machine import Machine
from tandem.models.forward import forward_groups
from tandem.models.packed import PackedModel
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint

V = 61
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "vocab_size": V,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {"vocab_size": V, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
BLOOM = {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def _mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5))


def _gemma2() -> PreTrainedModel:
    soft = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0, "head_dim": 8}
    config = Gemma2Config(**SIZES, **soft, sliding_window=6, query_pre_attn_scalar=8)
    return Gemma2ForCausalLM._from_config(config, attn_implementation="eager")


FAMILIES = {
    "llama": _llama,
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "mistral window": _mistral,
    "gemma2": _gemma2,
    "bloom": lambda: BloomForCausalLM(BloomConfig(**BLOOM, eos_token_id=2, pad_token_id=0)),
}


def _model(family: str, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FAMILIES[family]().eval()


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, V)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def _prompts(lengths: tuple[int, ...] = (9, 3, 14, 9, 1)) -> list[Group]:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(3, V, k).astype(np.int32) for k in lengths]
    return [Group(Prompt(f"p{i}", "", tokens=t)) for i, t in enumerate(tokens)]


def _engine(lm: PreTrainedModel, **more: object) -> TorchEngine:
    return TorchEngine(lm, _tokenizer(), **more)  # type: ignore[arg-type]


def _tokens(groups: list[Group]) -> list[list[list[int]]]:
    return [[c.tokens.tolist() for c in g.completions] for g in groups]


def _assert_same(ours: list[Group], theirs: list[Group]) -> None:
    """The same tokens, log-probabilities to 1e-5."""
    assert _tokens(ours) == _tokens(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a.completions, b.completions, strict=True):
            np.testing.assert_allclose(x.logp, y.logp, atol=1e-5)


def _law_along(lm: PreTrainedModel, prompt: Prompt, tokens: np.ndarray, sampling: Sampling) -> list:
    """[T] log-probabilities: a plain forward of the whole sequence, then truncation in numpy."""
    ids = torch.from_numpy(np.concatenate([prompt.tokens, tokens]).astype(np.int64))[None]
    with torch.no_grad():
        logits = lm(input_ids=ids).logits[0, len(prompt.tokens) - 1 : -1].double().numpy()
    return [worlds.truncated(row, sampling)[t] for row, t in zip(logits, tokens, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family: str) -> None:
    """Windows of 5 and 6 tokens lie inside prompts of 9 and 14; generate pads at the left."""
    lm, prompts = _model(family), _prompts()
    groups = list(_engine(lm).sample(prompts, 1, Sampling(temperature=0, max_tokens=12), Seed(0)))
    longest = max(len(g.prompt.tokens) for g in prompts)
    ids, seen = torch.zeros(2, len(prompts), longest, dtype=torch.long)
    for row, g in enumerate(prompts):
        ids[row, longest - len(g.prompt.tokens) :] = torch.from_numpy(g.prompt.tokens)
        seen[row, longest - len(g.prompt.tokens) :] = 1
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    padded = lm.generate(input_ids=ids, attention_mask=seen, **settings)[:, longest:]
    for group, row in zip(groups, padded.tolist(), strict=True):
        alone = torch.from_numpy(group.prompt.tokens)[None].long()
        single = lm.generate(input_ids=alone, attention_mask=alone * 0 + 1, **settings)
        [answer] = group.completions
        want = single[0, alone.shape[1] :].tolist()
        assert answer.tokens.tolist() == want
        assert row[: len(want)] == want
        assert answer.stopped == (want[-1] == 2)


@pytest.mark.parametrize("rule", ["two ends", "string", "strings and ends", "length"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mistral window"])
def test_greedy_tokens_are_those_of_generate_under_every_stop_rule(family: str, rule: str) -> None:
    """Ends and strings are taken from what the model writes, so that every rule cuts an answer.

    A token is a character here, and the first string is two of them.
    """
    lm, prompts, tokenizer = _model(family), _prompts(), worlds.letters(V)
    free = list(_engine(lm).sample(prompts, 1, Sampling(temperature=0, max_tokens=12), Seed(0)))
    written = max((g.completions[0].tokens.tolist() for g in free), key=len)
    pairs = [p for p in itertools.pairwise(written[2:]) if min(p) > 2 and p[0] != p[1]]
    ends = [2, pairs[-1][0]] if "ends" in rule else [2]
    stop = (tokenizer.decode(pairs[0]), "Zz") if "string" in rule else ()
    most = 5 if rule == "length" else 12
    lm.generation_config.eos_token_id = ends
    sampling = Sampling(temperature=0, max_tokens=most, stop=stop)
    cut = 0
    for group in TorchEngine(lm, tokenizer).sample(prompts, 1, sampling, Seed(0)):
        [answer] = group.completions
        alone = torch.from_numpy(group.prompt.tokens)[None].long()
        settings: dict = {"max_new_tokens": most, "do_sample": False, "pad_token_id": 0}
        if stop:
            settings |= {"stop_strings": list(stop), "tokenizer": tokenizer}
        whole = lm.generate(input_ids=alone, attention_mask=alone * 0 + 1, **settings)
        want = whole[0, alone.shape[1] :].tolist()
        assert answer.tokens.tolist() == want
        assert answer.stopped == (want[-1] in ends or answer.text.endswith(stop or "never"))
        cut += len(want) < 12
    assert cut > 0


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mistral window"])
def test_logp_is_that_of_the_kernel(family: str) -> None:
    """What the sampler returns and what the trainer would compute, token by token."""
    lm, prompts = _model(family), _prompts()
    trunk = PackedModel(lm, temperature=0.7)
    sampling = Sampling(temperature=0.7, max_tokens=12)
    groups = list(_engine(lm).sample(prompts, 3, sampling, Seed(4)))
    for group, reading in forward_groups(trunk, groups, 10**6):
        for answer, logp in zip(group.completions, reading.logp or (), strict=True):
            np.testing.assert_allclose(answer.logp, logp, atol=1e-4)


STORIES = Path(__file__).parents[2].parent / "shared/models/stories260k"


@pytest.mark.shared
@pytest.mark.skipif(not STORIES.exists(), reason="needs the real model in ../shared")
def test_a_real_model_writes_what_generate_writes() -> None:
    """Eight query heads on four key heads, trained weights, 40 greedy tokens."""
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    engine = TorchEngine(STORIES, tokenizer)
    texts = ("Once upon a time", "Lily and Tom went to the park. They", "The cat")
    ids = [tokenizer(t).input_ids for t in texts]
    prompts = [
        Group(Prompt(t, t, tokens=np.array(i, np.int32))) for t, i in zip(texts, ids, strict=True)
    ]
    for group in engine.sample(prompts, 1, Sampling(temperature=0, max_tokens=40), Seed(0)):
        alone = torch.from_numpy(group.prompt.tokens)[None].long()
        settings = {"max_new_tokens": 40, "do_sample": False}
        full = engine.lm.generate(alone, attention_mask=alone * 0 + 1, **settings)  # type: ignore[operator]
        assert group.completions[0].tokens.tolist() == full[0, alone.shape[1] :].tolist()


def test_the_probe_picks_the_decoder() -> None:
    """Position biases inside attention (Bloom) cannot be forked; the rest of the families can."""
    for family in FAMILIES:
        decoder = _engine(_model(family))._decoder
        assert isinstance(decoder, HFCacheDecoder if family == "bloom" else SharedPrefixDecoder), (
            family
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral window", "gemma2"])
def test_both_decoders_agree(family: str) -> None:
    """Right padding inside `forking`, left padding inside `rows`: the same numbers to 1e-5."""
    lm, prompts = _model(family), _prompts()
    sampling = Sampling(max_tokens=10)
    engine = _engine(lm)
    ours = list(engine.sample(prompts, 3, sampling, Seed(1)))
    engine._decoders[:] = [HFCacheDecoder(lm)]
    engine._decoder = engine._decoders[0]
    theirs = list(engine.sample(prompts, 3, sampling, Seed(1)))
    _assert_same(ours, theirs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral window", "gemma2"])
def test_fixed_shapes_change_nothing(family: str) -> None:
    """Rows leave one by one, prompts join, both are rounded up: the same tokens, logp to 1e-5."""
    lm, prompts, sampling = (
        _model(family),
        _prompts((9, 3, 14, 9, 1, 20, 6)),
        Sampling(max_tokens=14),
    )
    static, free = (_engine(lm, max_rows=7, compiled=compiled) for compiled in (True, False))
    assert isinstance(static._decoder, CudaGraphDecoder)
    for seed in (Seed(1), Seed(2)):
        ours, theirs = (list(e.sample(prompts, 3, sampling, seed)) for e in (static, free))
        _assert_same(ours, theirs)


def test_the_machine_asks_for_fixed_shapes_and_flex(f2: Path) -> None:
    """`machine.compiled` reaches attention and decoding, and changes no token."""
    asked = {}
    for compiled in (False, True):
        speaker = LocalModel(Checkpoint(f2)).open(Machine(precision="fp32", compiled=compiled))
        sampling = speaker.trunk.inner.config._attn_implementation
        assert sampling == (COMPILED if compiled else IMPLEMENTATION)
        assert isinstance(speaker.engine._decoder, CudaGraphDecoder) == compiled
        asked[compiled] = list(speaker.engine.sample(_two(), 8, Sampling(max_tokens=6), Seed(0)))
    assert _tokens(asked[True]) == _tokens(asked[False])


def _two() -> list[Group]:
    return [
        Group(Prompt(str(k), "", tokens=np.array(t, np.int32))) for k, t in enumerate([[1], [1, 3]])
    ]


def test_a_step_of_a_shape_stays_where_it_is() -> None:
    """What a recording needs: the second step of a shape reads and writes the first one's memory.

    Nine completions are rounded up to 16; when one prompt's three have left, six are to 8.
    """
    decoder = CudaGraphDecoder(_model("llama"))
    draw = np.random.default_rng(0).integers
    with torch.inference_mode(), shared_prefix_attention(decoder.lm):
        decoder.reset(12)
        decoder.join([draw(3, V, k).astype(np.int32) for k in (4, 7, 2)], 3)
        decoder.step(draw(3, V, 9))
        [(step, recorded)] = decoder._steps.values()
        where = step.tokens.data_ptr(), *decoder._addresses()
        decoder.step(draw(3, V, 9))
        assert decoder._steps == {(16, 4, 3): (step, recorded)}
        assert (step.tokens.data_ptr(), *decoder._addresses()) == where
        decoder.keep(np.repeat([True, False, True], 3))
        decoder.step(draw(3, V, 6))
        assert list(decoder._steps) == [(16, 4, 3), (8, 2, 3)]
        assert decoder._addresses() == list(where[1:])


@pytest.mark.parametrize("sampling", worlds.SAMPLINGS, ids=str)
def test_logp_is_that_of_a_plain_forward(sampling: Sampling) -> None:
    lm, prompts = _model("gemma2"), _prompts()
    for group in _engine(lm, max_rows=6).sample(prompts, 4, sampling, Seed(2)):
        for answer in group.completions:
            want = _law_along(lm, group.prompt, answer.tokens, sampling)
            assert answer.logp is not None
            assert answer.logp.dtype == np.float32
            np.testing.assert_allclose(answer.logp, want, atol=1e-4)


@pytest.fixture(scope="module")
def f2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.f2_model(tmp_path_factory.mktemp("f2"))


def _f2_counts(engine: TorchEngine, n: int, seed: int) -> dict[str, int]:
    prompt = Group(Prompt("x", "", tokens=np.array([worlds.F2_BOS], np.int32)))
    [group] = engine.sample([prompt], n, Sampling(max_tokens=2), Seed(seed))
    texts = [c.text for c in group.completions]
    assert set(texts) <= set(worlds.F2_LAW)
    assert not any(c.stopped for c in group.completions)
    return {y: texts.count(y) for y in worlds.F2_LAW}


def test_f2_frequencies_pass_a_chi_squared_test(f2: Path) -> None:
    """4 outcomes, 20,000 draws, 3 degrees of freedom; the seed is fixed, so this is no lottery."""
    counts = _f2_counts(TorchEngine(f2, AutoTokenizer.from_pretrained(f2)), 20_000, 3)
    expected = [20_000 * p for p in worlds.F2_LAW.values()]
    assert chisquare(list(counts.values()), expected).pvalue > 0.01


def test_f2_probabilities_are_exact(f2: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(f2)
    sequences = torch.tensor([[1, x, y] for x, y in itertools.product((3, 4), repeat=2)])
    logp = lm(input_ids=sequences).logits.log_softmax(-1)[:, :2]
    joint = logp.gather(-1, sequences[:, 1:, None]).sum((1, 2)).exp()
    np.testing.assert_allclose(joint.detach(), list(worlds.F2_LAW.values()), atol=1e-6)


def test_mixture_law_on_f2(f2: Path, tmp_path: Path) -> None:
    """log p = (1-b) log p1 + b log p2, renormalised at each token; p2 differs in the first token.

    First token with p1 = (.6, .4), p2 = (.1, .9), b = .3: weights .6^.7 .1^.3 and .4^.7 .9^.3.
    """
    other = worlds.f2_model(tmp_path, first={"a": 0.1, "b": 0.9})
    tokenizer = AutoTokenizer.from_pretrained(f2)
    engine = TorchEngine(f2, tokenizer, mixture=(other, 0.3))
    a, b = 0.6**0.7 * 0.1**0.3, 0.4**0.7 * 0.9**0.3
    first = {"a": a / (a + b), "b": b / (a + b)}
    want = {x + y: first[x] * worlds.F2_AFTER[x][y] for x in "ab" for y in "ab"}
    prompt = Group(Prompt("x", "", tokens=np.array([worlds.F2_BOS], np.int32)))
    [group] = engine.sample([prompt], 4000, Sampling(max_tokens=2), Seed(5))
    for answer in group.completions:
        assert answer.logp is not None
        assert answer.logp.sum() == pytest.approx(np.log(want[answer.text]), abs=1e-5)
    counts = [sum(c.text == y for c in group.completions) for y in want]
    assert chisquare(counts, [4000 * p for p in want.values()]).pvalue > 0.01


def test_mixture_of_two_networks_is_brute_force() -> None:
    one, two, prompts = _model("llama"), _model("llama", seed=1), _prompts()
    sampling = Sampling(temperature=0.8, top_k=11, max_tokens=6)
    for group in _engine(one, mixture=(two, 0.25)).sample(prompts, 2, sampling, Seed(0)):
        for answer in group.completions:
            ids = np.concatenate([group.prompt.tokens, answer.tokens]).astype(np.int64)
            start = len(group.prompt.tokens) - 1
            with torch.no_grad():
                logp = [
                    m(input_ids=torch.from_numpy(ids)[None]).logits[0, start:-1].log_softmax(-1)
                    for m in (one, two)
                ]
            mixed = (0.75 * logp[0] + 0.25 * logp[1]).double().numpy()
            want = [
                worlds.truncated(r, sampling)[t] for r, t in zip(mixed, answer.tokens, strict=True)
            ]
            np.testing.assert_allclose(answer.logp, want, atol=1e-4)


def test_draws_depend_on_seed_prompt_and_i_alone() -> None:
    lm, prompts, sampling = _model("llama"), _prompts(), Sampling(max_tokens=8)
    seven = list(_engine(lm).sample(prompts, 7, sampling, Seed(4)))
    by_id = {g.id: t for g, t in zip(seven, _tokens(seven), strict=True)}
    backwards = list(_engine(lm).sample(prompts[::-1], 7, sampling, Seed(4)))
    assert [g.id for g in backwards] == [g.id for g in prompts[::-1]]
    assert {g.id: t for g, t in zip(backwards, _tokens(backwards), strict=True)} == by_id
    three = list(_engine(lm, unit_rows=6, max_rows=3).sample(prompts[1:4], 3, sampling, Seed(4)))
    assert {g.id: t for g, t in zip(three, _tokens(three), strict=True)} == {
        g.id: by_id[g.id][:3] for g in three
    }
    short = list(_engine(lm).sample(prompts, 2, Sampling(max_tokens=3), Seed(4)))
    assert _tokens(short) == [[c[:3] for c in by_id[g.id][:2]] for g in prompts]
    assert _tokens(list(_engine(lm).sample(prompts, 7, sampling, Seed(5)))) != _tokens(seven)


def _bits(groups: list[Group]) -> list[tuple[bytes, bytes]]:
    rows = [(c.tokens.tobytes(), c.logp) for g in groups for c in g.completions]
    return [(t, b"" if logp is None else logp.tobytes()) for t, logp in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_at_a_unit_is_bit_identical(dtype: torch.dtype) -> None:
    """Nine prompts of one to nine tokens, units of two prompts; two ranks take units in turn."""
    lm, prompts = _model("llama"), _prompts((4, 7, 2, 9, 1, 3, 8, 5, 6))
    sampling, n = Sampling(max_tokens=8), 3
    new = lambda: _engine(lm, dtype=dtype, unit_rows=6, max_rows=4)  # noqa: E731
    whole = list(new().sample(prompts, n, sampling, Seed(9)))
    units = list(new().units(prompts, n))
    assert [[g.id for g in u] for u in units] == [
        ["p0", "p1"],
        ["p2", "p3"],
        ["p4", "p5"],
        ["p6", "p7"],
        ["p8"],
    ]
    rest = list(new().sample([g for u in units[2:] for g in u], n, sampling, Seed(9)))
    assert _bits(whole[4:]) == _bits(rest)
    engine, ranks = new(), []
    for rank in range(2):
        for k in range(rank, len(units), 2):
            ranks += [(k, list(engine.sample(units[k], n, sampling, Seed(9))))]
    assert _bits(whole) == _bits([g for _, u in sorted(ranks, key=lambda r: r[0]) for g in u])


def test_stop_strings_and_end_tokens() -> None:
    """Greedy text is known; every rule cuts the same text at its own place."""
    lm, prompts = _model("qwen2"), _prompts((6,))
    lm.generation_config.eos_token_id = None
    tokenizer = _tokenizer()
    tokenizer.eos_token = None

    def run(**more: object) -> tuple[list[int], bool, str]:
        sampling = Sampling(temperature=0, **({"max_tokens": 10} | more))  # type: ignore[arg-type]
        [group] = TorchEngine(lm, tokenizer).sample(prompts, 1, sampling, Seed(0))
        [c] = group.completions
        assert c.logp is not None
        assert (c.logp == 0).all()
        return c.tokens.tolist(), c.stopped, c.text

    free, stopped, _ = run()
    assert len(free) == 10
    assert not stopped
    third = f"w{free[2]}"
    at = [f"w{t}" for t in free].index(third) + 1
    tokens, stopped, text = run(stop=("never", third))
    assert (tokens, stopped) == (free[:at], True)
    assert text.endswith(third)
    lm.generation_config.eos_token_id = [free[4], 2]
    at = free.index(free[4]) + 1
    assert run()[:2] == (free[:at], True)
    assert run(max_tokens=1)[:2] == (free[:1], free[0] == free[4])
    lm.generation_config.eos_token_id = None
    tokenizer.eos_token = f"w{free[4]}"
    tokens, stopped, text = run()
    assert (tokens, stopped) == (free[:at], True)
    assert f"w{free[4]}" not in text.split()  # the end token is special: no part of the text


def test_adapters_are_sampled_as_they_are_switched() -> None:
    from peft import LoraConfig, get_peft_model

    lm, prompts = _model("llama"), _prompts()
    sampling = Sampling(max_tokens=6)
    plain = _tokens(list(_engine(lm).sample(prompts, 2, sampling, Seed(0))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(
            copy.deepcopy(lm), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
        )
    engine = _engine(tuned)
    assert isinstance(engine._decoder, SharedPrefixDecoder)
    for group in engine.sample(prompts, 2, sampling, Seed(0)):
        for answer in group.completions:
            want = _law_along(tuned, group.prompt, answer.tokens, sampling)
            np.testing.assert_allclose(answer.logp, want, atol=1e-4)
    with tuned.disable_adapter():
        assert _tokens(list(engine.sample(prompts, 2, sampling, Seed(0)))) == plain


def test_state_space_models_are_sampled_through_their_own_cache() -> None:
    """Mamba has no keys to fork, and its scan would run from one packed prompt into the next."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = MambaForCausalLM(MambaConfig(**MAMBA)).eval()
    engine, sampling = _engine(lm, max_rows=4), Sampling(max_tokens=7)
    assert isinstance(engine._decoder, HFCacheDecoder)
    for group in engine.sample(_prompts(), 3, sampling, Seed(0)):
        for answer in group.completions:
            want = _law_along(lm, group.prompt, answer.tokens, sampling)
            np.testing.assert_allclose(answer.logp, want, atol=1e-4)


def test_a_cache_that_changes_the_logits_is_refused() -> None:
    """A layer that adds its batch's mean: rows depend on their neighbours, cached or not."""
    lm = _model("llama")
    lm.model.norm.register_forward_hook(lambda m, args, out: out + out.mean((0, 1)))
    with pytest.raises(ModelError, match="LlamaForCausalLM gives other logits"):
        _engine(lm)


def test_dropout_is_off_while_sampling() -> None:
    lm, prompts, sampling = _model("gpt2"), _prompts(), Sampling(max_tokens=6)
    calm = list(_engine(lm).sample(prompts, 2, sampling, Seed(0)))
    lm.train()
    assert _bits(list(_engine(lm).sample(prompts, 2, sampling, Seed(0)))) == _bits(calm)
    assert all(m.training for m in lm.modules())


def test_a_live_model_is_current_and_left_as_it_was() -> None:
    lm, prompts, sampling = _model("llama"), _prompts(), Sampling(max_tokens=5)
    lm.train()
    lm.model.layers[1].eval()
    before = lm.config._attn_implementation
    live, frozen = _engine(lm), _engine(lm, dtype=torch.float32)
    first = _tokens(list(live.sample(prompts, 2, sampling, Seed(0))))
    assert first == _tokens(list(frozen.sample(prompts, 2, sampling, Seed(0))))
    assert lm.training
    assert not lm.model.layers[1].training
    assert lm.config._attn_implementation == before
    with torch.no_grad():
        lm.lm_head.weight.mul_(-1)
    changed = _tokens(list(live.sample(prompts, 2, sampling, Seed(0))))
    assert changed != first
    assert _tokens(list(frozen.sample(prompts, 2, sampling, Seed(0)))) == first
    copied = frozen.lm
    frozen.load(lm)
    assert frozen.lm is copied
    assert _tokens(list(frozen.sample(prompts, 2, sampling, Seed(0)))) == changed
    assert all(p.requires_grad and not p.is_inference() for p in lm.parameters())


def test_bf16_samples_its_own_law() -> None:
    lm, prompts = _model("llama"), _prompts()
    half = copy.deepcopy(lm).to(torch.bfloat16)
    sampling = Sampling(max_tokens=8)
    for group in _engine(lm, dtype=torch.bfloat16).sample(prompts, 4, sampling, Seed(0)):
        for answer in group.completions:
            want = _law_along(half, group.prompt, answer.tokens, sampling)
            np.testing.assert_allclose(answer.logp, want, atol=0.25)


def test_what_cannot_be_sampled_is_refused(f2: Path) -> None:
    lm = _model("llama")
    with pytest.raises(EngineError, match="`p0` has no tokens"):
        list(_engine(lm).sample([Group(Prompt("p0", "hi"))], 1, Sampling(), Seed(0)))
    with pytest.raises(EngineError, match="`p0` has 60 tokens, and max_tokens is 5"):
        list(_engine(lm).sample(_prompts((60,)), 1, Sampling(max_tokens=5), Seed(0)))
    with pytest.raises(ModelError, match="61 and 5 tokens"):
        _engine(lm, mixture=(f2, 0.5))
    with pytest.raises(ConfigError, match=r"b = 1\.5"):
        _engine(lm, mixture=(lm, 1.5))
    with pytest.raises(ModelError, match="is not a model folder"):
        _engine(Path("/nowhere"))  # type: ignore[arg-type]
    with torch.no_grad():
        lm.lm_head.weight[7] = float("nan")
    with pytest.raises(EngineError, match="not numbers: completion 0 of `p2`"):
        list(_engine(lm).sample(_prompts(), 1, Sampling(max_tokens=4), Seed(0)))


def test_newcomers_may_end_at_once_beside_others(tmp_path: Path) -> None:
    """A completion that joins late and ends at its first token has no cache to be moved.

    Half of the answers are an end alone; the rest go on for ten tokens on average. The batch is
    of 16, so newcomers join rows that have been stepping, and some of both leave together.
    """
    laws = {"<bos>": {"<eos>": 0.5, "a": 0.5}, "a": {"<eos>": 0.1, "a": 0.9}}
    folder = worlds.markov_model(tmp_path, laws, worlds.letters(5))
    engine = TorchEngine(folder, worlds.letters(5), max_rows=16)
    prompts = [Group(Prompt(str(k), "", tokens=np.array([1], np.int32))) for k in range(400)]
    drawn = list(engine.sample(prompts, 1, Sampling(max_tokens=12), Seed(0)))
    lengths = np.array([len(g.completions[0].tokens) for g in drawn])
    assert abs((lengths == 1).mean() - 0.5) < 4 * 0.025
    assert abs((lengths == 2).mean() - 0.05) < 4 * 0.011
