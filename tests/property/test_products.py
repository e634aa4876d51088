"""Attention with its gradient written out is attention with the gradient of autograd.

The other side is `attention` as it is where products are not used: blocks gathered by autograd,
and PyTorch's own kernel. In fp32 both agree to rounding; in bf16 to bf16's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tandem.batching.attention_plan import AttentionPlan, plan_attention
from tandem.kernels import attention, cpu_attention
from tandem.kernels.cpu_attention import BlockedAttention

WIDTH = 12


def laid(groups: list[tuple[int, list[int]]]) -> AttentionPlan:
    """Plan a row of prompts, each with its answers behind it."""
    lengths, parents, positions = [], [], []
    for prompt, answers in groups:
        mine = len(lengths)
        lengths += [prompt, *answers]
        parents += [-1, *[mine] * len(answers)]
        positions += [torch.arange(prompt), *(torch.arange(prompt, prompt + n) for n in answers)]
    return plan_attention(lengths, parents, torch.cat(positions))


ROWS = {
    "one": [(7, [3])],
    "padded": [(31, [9, 4]), (18, [2, 2, 11]), (3, [14])],
    "prompts alone": [(12, []), (5, [])],
    "no prompt": [(0, [6, 2])],
}


def drawn(tokens: int, heads: int, own: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(1, tokens, n, WIDTH, generator=draw) for n in (heads, own, own))
    q, k, v = (x.transpose(1, 2).requires_grad_() for x in (q, k, v))
    return q, k, v, torch.randn(1, tokens, heads, WIDTH, generator=draw)


def both(rows: str, heads: int, own: int, window: int | None) -> list[list[Tensor]]:
    where = laid(ROWS[rows])
    q, k, v, g = drawn(len(where.back), heads, own)
    layer = torch.nn.Identity()
    theirs, _ = attention.packed_attention(
        layer, q, k, v, None, sliding_window=window, segments=where, scaling=0.4
    )
    mine = BlockedAttention.apply(q[0], k[0], v[0], where, 0.4, window, torch.float32)
    mine = mine.view(theirs.shape)
    return [[y.detach(), *torch.autograd.grad(y, [q, k, v], g)] for y in (theirs, mine)]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("heads", "own"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("window", [None, 5])
def test_value_and_gradients_are_autograds(rows: str, heads: int, own: int, window: int | None):
    for theirs, mine in zip(*both(rows, heads, own, window), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_in_bf16_it_is_used_and_right_to_bf16(monkeypatch: pytest.MonkeyPatch):
    where = laid(ROWS["padded"])
    q, k, v, g = drawn(len(where.back), 4, 2)
    exact, _ = attention.packed_attention(torch.nn.Identity(), q, k, v, None, segments=where)
    wanted = [exact.detach(), *torch.autograd.grad(exact, [q, k, v], g)]
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = attention.packed_attention(torch.nn.Identity(), q, k, v, None, segments=where)
    assert "BlockedAttention" in str(y.grad_fn.next_functions[0][0])
    found = [y, *torch.autograd.grad(y, [q, k, v], g.bfloat16())]
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.float() - theirs).abs().max() < 0.02 * theirs.abs().max()
    monkeypatch.setattr(attention, "LONGEST", 8)
    with torch.autocast("cpu", torch.bfloat16):
        longer, _ = attention.packed_attention(torch.nn.Identity(), q, k, v, None, segments=where)
    assert "BlockedAttention" not in str(longer.grad_fn.next_functions[0][0])


def test_some_heads_at_a_time_are_all_heads(monkeypatch: pytest.MonkeyPatch):
    whole = both("padded", 6, 2, None)[1]
    monkeypatch.setattr(cpu_attention, "SCORES", 1)
    for part, all_at_once in zip(both("padded", 6, 2, None)[1], whole, strict=True):
        assert torch.allclose(part, all_at_once, atol=1e-6)


def megabytes() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


KEPT = """
before = megabytes()
with keep_freed_memory():
    with keep_freed_memory():
        torch.ones(100 << 20)
    assert megabytes() > before + 350
    given = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(90 << 20)
    given = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - given
    assert given * resource.getpagesize() < 50 << 20
assert megabytes() < before + 100
"""
GIVEN_BACK = """
before, kept = megabytes(), []
with return_freed_memory():
    for _ in range(20):  # layers are gathered and dropped, each followed by something that stays
        layer = torch.ones(5 << 20)
        kept.append(torch.ones(1000))
        del layer
    assert megabytes() < before + 50
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize("script", [KEPT, GIVEN_BACK], ids=["kept within", "given back at once"])
def test_freed_memory_goes_back_when_it_is_said(script: str):
    """In a process of its own: a heap that other tests left gaps in is another question."""
    head = """
import resource, torch
from tandem.kernels.malloc import keep_freed_memory, return_freed_memory
from test_products import megabytes
"""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
