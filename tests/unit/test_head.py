"""Log-probabilities of tokens: the one function that every method reads, against the plain one.

The five rules of docs/theory/conventions.md#log-probability-of-a-completion: (a) padding is
invisible, (b) additive over tokens, (c) a distribution over completions, (d) the model's own loss,
(e) one temperature.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tandem.batching.packing import pack_groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.kernels import logprobs
from tandem.kernels.logprobs import Logits, token_logp
from tandem.machine import Machine
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.probe import probe_layout
from tandem.rng import Seed
from tiny import close, group, lm
from worlds import F2_BOS, F2_EOS, f2_model, letters

T, V, D = 37, 53, 16
FORMS = [Logits(), Logits(0.4), Logits(cap=2.0), Logits(1 / 0.7, cap=1.5)]


def plain(h: Tensor, w: Tensor, b: Tensor | None, target: Tensor, form: Logits) -> tuple:
    """Return logp and entropy by log_softmax in float64."""
    z = h.double() @ w.double().T
    z = z if b is None else z + b.double()
    z = z if form.cap is None else form.cap * torch.tanh(z / form.cap)
    logp = (z * form.scale).log_softmax(-1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def random_inputs(bias: bool, dtype: torch.dtype = torch.float32) -> tuple:
    g = torch.Generator().manual_seed(0)
    h = torch.randn(T, D, generator=g).to(dtype).requires_grad_()
    w = torch.randn(V, D, generator=g, requires_grad=True)
    b = torch.randn(V, generator=g, requires_grad=True) if bias else None
    return h, w, b, torch.randint(0, V, (T,), generator=g), torch.randn(T, generator=g)


def grads(logp: Tensor, by: Tensor, *of: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad((logp * by).sum(), [x for x in of if x is not None]))


@pytest.fixture(params=["kept", "recomputed", "in pieces"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Keep the logits, make them again in chunks of 5 rows, or sum them in pieces of 3 rows."""
    if request.param == "recomputed":
        monkeypatch.setattr(logprobs, "KEEP_BYTES", 0)
        monkeypatch.setattr(logprobs, "CHUNK_BYTES", 5 * 4 * V)
    if request.param != "kept":
        monkeypatch.setattr(logprobs, "CACHE_BYTES", 3 * 4 * V)
    return request.param


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_gradients_equal_float64(form: Logits, bias: bool):
    h, w, b, target, by = random_inputs(bias)
    logp, entropy = token_logp(h, w, b, target, form, entropy=True)
    wanted, wanted_entropy = plain(h, w, b, target, form)
    assert logp.dtype == torch.float32
    assert (logp - wanted).abs().max() < 1e-5
    assert (entropy - wanted_entropy).abs().max() < 1e-5
    assert not entropy.requires_grad
    for mine, theirs in zip(
        grads(logp, by, h, w, b), grads(wanted, by.double(), h, w, b), strict=True
    ):
        close(mine, theirs, 2e-6)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("form", [FORMS[0], FORMS[3]], ids=str)
def test_bf16_is_near(form: Logits):
    """Sums over the vocabulary are fp32: what is left is the rounding of the logits, 2^-9.

    A logit of size up to 16 is off by at most 2^-9 * 16 = 1/32 (and 2/3 as much again from h W's
    accumulation), and logp by at most twice that.
    """
    h, w, b, target, by = random_inputs(True, torch.bfloat16)
    logp, _ = token_logp(h, w, b, target, form)
    wanted, _ = plain(h, w.bfloat16(), b.bfloat16(), target, form)
    assert logp.dtype == torch.float32
    assert (logp - wanted).abs().max() < 0.1
    for mine, theirs in zip(
        grads(logp, by, h, w, b), grads(wanted, by.double(), h, w, b), strict=True
    ):
        assert mine.dtype == theirs.dtype
        close(mine.float(), theirs.float(), 0.02)


def test_frozen_parts_get_no_gradient():
    h, w, _, target, by = random_inputs(False)
    w = w.detach()
    logp, _ = token_logp(h, w, None, target, Logits())
    (g,) = grads(logp, by, h)
    close(g, grads(plain(h, w, None, target, Logits())[0], by.double(), h)[0], 2e-6)
    with torch.no_grad():
        assert not token_logp(h, w, None, target, Logits())[0].requires_grad


def test_a_second_backward_is_refused_not_wrong():
    """The logits become their own gradient in place; a second pass would read the wrong numbers."""
    h, w, _, target, _ = random_inputs(False)
    logp, _ = token_logp(h, w, None, target, Logits())
    logp.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp.sum().backward()


def test_no_token_at_all():
    h, w, _, target, _ = random_inputs(False)
    logp, _ = token_logp(h[:0], w, None, target[:0], Logits())
    logp.sum().backward()
    assert float(w.grad.abs().sum()) == 0


# --- the five rules of a log-probability ---------------------------------------------------------


def trunk(kind: str = "llama", temperature: float = 1.0) -> PackedModel:
    t = PackedModel(lm(kind), temperature=temperature).eval()
    probe_layout(t)
    return t


def a_group(n: int = 3) -> Group:
    return group("g", np.random.default_rng(0), 7, range(4, 4 + n))


def test_a_padding():
    """(a) The same completion beside longer ones: rows pads it, shared does not. 1e-4 in fp32."""
    policy, alone = trunk(), a_group(1)
    among = Group(alone.prompt, alone.completions + a_group(6).completions[3:])
    first = policy(pack_groups([alone], "rows").tokens).logp.rows()[0]
    for layout in ("rows", "shared"):
        assert (
            policy(pack_groups([among], layout).tokens).logp.rows()[0] - first
        ).abs().max() < 1e-4


def test_b_additive_over_tokens():
    """(b) log p(uv | x) = log p(u | x) + log p(v | xu), wherever a completion is cut in two."""
    policy, g = trunk(), a_group(1)
    full = g.completions[0].tokens
    whole = policy(pack_groups([g], "shared").tokens).logp.sum()
    for cut in range(1, len(full)):
        head_ = Group(g.prompt, (Completion("", full[:cut]),))
        longer = Prompt("h", "", tokens=np.concatenate([g.prompt.tokens, full[:cut]]))
        tail = Group(longer, (Completion("", full[cut:]),))
        both = policy(pack_groups([head_, tail], "shared").tokens).logp.sum().sum()
        assert both.item() == pytest.approx(whole.item(), abs=1e-4)


def test_c_completions_form_a_distribution(tmp_path: Path):
    """(c) All 5^3 continuations of three tokens sum to 1; and F2's four to 1 by themselves."""
    policy = open_policy(f2_model(tmp_path), Machine(precision="fp32"))
    prompt = Prompt("p", "", tokens=np.array([F2_BOS], np.int32))
    rows = [np.array(y, np.int32) for y in itertools.product(range(5), repeat=3)]
    every = Group(prompt, tuple(Completion("", y) for y in rows))
    with torch.no_grad():
        logp = policy(pack_groups([every], policy.layout).tokens).logp.sum()
    assert float(logp.double().exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "granite"])
def test_d_equals_the_models_own_loss(kind: str):
    """(d) HF's loss is the mean over labels that are not -100: times their count it is ours."""
    policy, g = trunk(kind), a_group(3)
    ours = policy(pack_groups([g], "shared").tokens).logp.sum()
    stock = lm(kind)
    for k, completion in enumerate(g.completions):
        ids = torch.from_numpy(np.concatenate([g.prompt.tokens, completion.tokens])).long()[None]
        labels = ids.clone()
        labels[:, : len(g.prompt.tokens)] = -100
        theirs = -stock(input_ids=ids, labels=labels).loss * len(completion.tokens)
        assert ours[k].item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_e_one_temperature_in_sampling_and_in_training(temperature: float):
    """(e) What the engine writes as `logp` is what the kernel reads back at that temperature."""
    policy = trunk("llama", temperature)
    prompt = Group(a_group().prompt)
    engine = TorchEngine(lm(), letters(41))
    sampling = Sampling(temperature=temperature, max_tokens=12)
    (drawn,) = engine.sample([prompt], 4, sampling, Seed(0))
    with torch.no_grad():
        read = policy(pack_groups([drawn], "shared").tokens).logp.rows()
    for completion, logp in zip(drawn.completions, read, strict=True):
        assert np.abs(completion.logp - logp.numpy()).max() < 1e-4
    assert letters(41).eos_token_id == F2_EOS
