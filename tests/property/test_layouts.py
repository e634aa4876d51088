"""The layout is an economy, never a number: packed, split, shuffled or padded, all is the same.

`shared` encodes a prompt once and its completions behind it; `rows` gives each completion a row
of its own, as textbooks do. They must agree in log-probabilities and in gradients, on every
architecture for which the probe picks `shared`.
"""

from __future__ import annotations

import copy
import functools
import itertools
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.batching.attention_plan import MULTIPLE
from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.microbatches import Cut, cut_step, unique_tokens
from tandem.batching.packing import Layout, pack_groups
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.kernels import flex_attention
from tandem.kernels.attention import COMPILED, IMPLEMENTATION, attend_in_blocks
from tandem.machine import Machine
from tandem.methods.kto import MismatchedSource, log_ratio
from tandem.models.forward import forward_groups
from tandem.models.packed import PackedModel
from tandem.models.probe import probe_layout
from tandem.objectives import PAIRWISE, bradley_terry, kto, nll
from tandem.operators import mismatch
from tandem.rng import Seed
from tandem.training.loop import LossFunction
from tandem.training.sources import DatasetSource
from tiny import CONFIGS, SHARED, close, gradient, group, labelled, lm, tokens

BOUND = 1e-5


@functools.cache
def trunks(
    kind: str, scalar: bool = False, compiled: bool = False
) -> tuple[PackedModel, PackedModel]:
    """Return one model twice: as the probe leaves it, and stock, one completion a row."""
    auto = hf.AutoModelForSequenceClassification if scalar else hf.AutoModelForCausalLM
    model = lm(kind, auto=auto, **({"num_labels": 1} if scalar else {}))
    probed, stock = PackedModel(model), PackedModel(copy.deepcopy(model))
    probe_layout(probed, compiled=compiled)
    return probed.eval(), stock.eval()


def some_groups(seed: int = 0) -> list[Group]:
    """Groups of 1 to 5 completions; prompts shorter and longer than the windows."""
    rng = np.random.default_rng(seed)
    shapes = [(17, (5, 9, 1, 12, 3)), (3, (14,)), (1, (2, 2)), (25, (8, 20))]
    return [labelled(group(str(i), rng, p, n), rng) for i, (p, n) in enumerate(shapes)]


def the_nll(out: Outputs, batch: Batch) -> dict[str, Terms]:
    assert out.logp is not None
    return {"nll": nll(out.logp, weight=batch.weight)}


def the_dpo(out: Outputs, batch: Batch) -> dict[str, Terms]:
    assert out.logp is not None
    assert batch.pairs is not None
    return {"dpo": PAIRWISE["sigmoid"](out.logp, batch.ref_logp, batch.pairs, beta=0.5)}


def the_reward(out: Outputs, batch: Batch) -> dict[str, Terms]:
    assert out.score is not None
    assert batch.pairs is not None
    return {"bt": bradley_terry(out.score, batch.pairs, centring=0.1)}


def the_kto(out: Outputs, batch: Batch) -> dict[str, Terms]:
    own = batch.weight > 0
    assert batch.scores is not None
    assert batch.shared is not None
    z0 = batch.shared["z0"]
    return {"kto": kto(log_ratio(out, batch)[own], batch.scores[own], z0, beta=0.5)}


# --- shared equals rows -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_probe_chooses(kind: str):
    """Attention can share a prompt; a state-space layer carries its state into the next segment."""
    probed, _ = trunks(kind)
    assert probed.layout == ("rows" if kind == "mamba" else "shared")


RULES = list(itertools.product((None, 6, 4), (None, 5.0)))
"""Window and cap of a layer: each of the six is a graph of its own to compile."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a compiler")
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([(6, 5.0)], id="a window and a cap"),
        pytest.param(RULES, id="each with each"),
    ],
)
@pytest.mark.slow
def test_flex_compiled_once_serves_all_rows(rules: list[Any], monkeypatch: pytest.MonkeyPatch):
    """Compiled for the CPU, which can do that without gradients: rows of any length, every window.

    Windows and caps that were numbers in the rule did not compile. A tail's does not either: the
    C++ template of PyTorch 2.13 confuses two lengths. The tests below read tails uncompiled.
    """
    monkeypatch.setattr(flex_attention, "COMPILED_DEVICES", {"cpu"})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for seed, longer in enumerate((0, 3, 11)):
        more = group("c", np.random.default_rng(seed), 5 + longer, (longer + 1, 2))
        plan = pack_groups([*some_groups(seed), more], "shared").tokens.plan
        assert plan is not None
        for window, cap in rules:
            q, k, v = (torch.randn(h, len(plan.row.positions), 16) for h in (4, 2, 2))
            with torch.no_grad():
                ours = flex_attention.flexible_attention(q, k, v, plan, 0.25, cap, window)
            blocks = attend_in_blocks(
                *(x.transpose(0, 1) for x in (q, k, v)), plan, 0, 0.25, cap, window
            )
            close(ours, blocks, 1e-5)
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert frames <= len(rules) + 1, f"{frames} graphs for {3 * len(rules)} calls"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_flex_is_compiled_for_every_model_of_a_process(monkeypatch: pytest.MonkeyPatch):
    """A policy, a reward and a critic, each in two dtypes, whole and as a tail: 24 calls.

    PyTorch stops compiling after 8 variants, and would go on with all scores in memory.
    """
    monkeypatch.setattr(flex_attention, "COMPILED_DEVICES", {"cpu"})
    for name, function in (
        ("_attend", flex_attention.flex_attention),
        ("_tiles", flex_attention.create_block_mask),
    ):
        traced = torch.compile(function, dynamic=True, backend="eager")
        monkeypatch.setattr(flex_attention, name, lambda _, traced=traced: traced)
    torch._dynamo.reset()
    whole = pack_groups(some_groups(), "shared").tokens.plan
    assert whole is not None
    shapes = ((8, 4, 16), (12, 12, 16), (16, 8, 32))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True), torch.no_grad():
        for (heads, own, width), low, plan, window in itertools.product(
            shapes, (torch.float32, torch.bfloat16), (whole, whole.tail("source").plan), (None, 6)
        ):
            size = len(plan.row.positions), width
            q, k, v = (torch.randn(h, *size, dtype=low) for h in (heads, own, own))
            assert (
                flex_attention.flexible_attention(q, k, v, plan, 0.25, None, window)
                .isfinite()
                .all()
            )


@pytest.mark.parametrize("compiled", [False, True], ids=["blocks", "flex"])
@pytest.mark.parametrize("kind", SHARED)
def test_shared_equals_rows(kind: str, compiled: bool):
    """Log-probabilities of every token, and the gradient of every weight."""
    shared, rows = trunks(kind, compiled=compiled)
    assert shared.inner.config._attn_implementation == (COMPILED if compiled else IMPLEMENTATION)
    groups = some_groups()
    a, b = pack_groups(groups, "shared"), pack_groups(groups, "rows")
    x, y = shared(a.tokens).logp.values, rows(b.tokens).logp.values
    assert torch.equal(a.tokens.target, b.tokens.target)
    close(x, y, 2e-6)
    close(gradient(shared, [a], the_nll), gradient(rows, [b], the_nll), BOUND)


@pytest.mark.parametrize("compiled", [False, True], ids=["blocks", "flex"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "mistral", "gemma2"])
def test_shared_equals_rows_at_a_scalar_head(kind: str, compiled: bool):
    shared, rows = trunks(kind, scalar=True, compiled=compiled)
    a, b = pack_groups(some_groups()[::3], "shared"), pack_groups(some_groups()[::3], "rows")
    close(shared(a.tokens).score, rows(b.tokens).score, 2e-6)
    close(gradient(shared, [a], the_reward), gradient(rows, [b], the_reward), BOUND)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3", "qwen2-window"])
def test_the_window_matters(kind: str):
    """Were the window not shorter than these prompts, the tests above would prove nothing."""
    wide = lm(kind)
    for module in wide.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = 10_000
    wide.config.sliding_window = 10_000
    tokens_ = pack_groups(some_groups(), "rows").tokens
    _, rows = trunks(kind)
    assert (PackedModel(wide)(tokens_).logp.values - rows(tokens_).logp.values).abs().max() > 1e-2


def test_a_window_that_only_the_stock_mask_knows_is_read_in_rows():
    """A layer that asks for no window while its configuration has one cannot be shared.

    The probe's toys are shorter than a real window, so agreement on them is no proof.
    """
    model = lm("gemma3", sliding_window=4096)
    assert probe_layout(PackedModel(model)) == "shared"
    model.model.layers[0].self_attn.sliding_window = None
    assert probe_layout(PackedModel(model)) == "rows"


SHAPES = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=6)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sampled_from(["llama", "gpt2", "mistral", "gemma2"]), st.integers(0, 2**31))
def test_any_groups(shapes: list[tuple[int, list[int]]], kind: str, seed: int):
    rng = np.random.default_rng(seed)
    groups = [group(str(i), rng, p, n) for i, (p, n) in enumerate(shapes)]
    shared, rows = trunks(kind)
    with torch.no_grad():
        x = shared(pack_groups(groups, "shared").tokens).logp.values
        y = rows(pack_groups(groups, "rows").tokens).logp.values
    assert (x - y).abs().max() < 2e-5 * y.abs().max()


# --- full rows ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sampled_from([("source",), ("last",), ("source", "last")]))
def test_rows_and_tails_are_full(shapes: list[tuple[int, list[int]]], names: tuple[str, ...]):
    """Filling is at the end, is not counted, and nobody reads it; a tail asks for what is read."""
    rng = np.random.default_rng(0)
    groups = [group(str(i), rng, p, n) for i, (p, n) in enumerate(shapes)]
    packed = pack_groups(groups, "shared").tokens
    total, row = sum(map(unique_tokens, groups)), packed.ids.shape[1]
    assert row % MULTIPLE == 0 <= row - total < MULTIPLE
    assert packed.useful == total == int(packed.real[0, :total].sum())
    assert max(int(packed.source.max()), int(packed.last.max())) < total
    assert packed.plan is not None
    tail = packed.plan.tail(*names)
    reads = [getattr(packed, name) for name in names]
    for name, tokens_ in zip(names, reads, strict=True):
        assert torch.equal(tail.asking[tail.at[name]], tokens_)
    asked, wanted = len(tail.asking), len(torch.cat(reads).unique())
    assert asked % MULTIPLE == 0 <= asked - wanted < MULTIPLE
    assert len(tail.asking.unique()) == asked


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2"])
def test_filling_changes_no_number(kind: str, monkeypatch: pytest.MonkeyPatch):
    shared, _ = trunks(kind)
    full = pack_groups(some_groups(), "shared")
    monkeypatch.setattr("tandem.batching.attention_plan.MULTIPLE", 1)
    bare = pack_groups(some_groups(), "shared")
    assert full.tokens.ids.shape[1] > bare.tokens.ids.shape[1] == bare.tokens.useful
    x, y = (shared(batch.tokens).logp.values for batch in (full, bare))
    close(x, y, 2e-6)
    close(gradient(shared, [full], the_nll), gradient(shared, [bare], the_nll), BOUND)


# --- any cut, any order, any padding ------------------------------------------------------------


def masked(groups: list[Group]) -> list[Group]:
    """Hide tokens of every other completion from the loss, as between turns; weigh them all."""
    rng = np.random.default_rng(5)

    def changed(k: int, c: Any) -> Any:
        mask = rng.uniform(size=len(c.tokens)) < 0.6
        mask[-1] = True
        return replace(c, mask=mask if k % 2 else None, weight=float(rng.uniform(0.2, 3)))

    return [
        replace(g, completions=tuple(changed(k, c) for k, c in enumerate(g.completions)))
        for g in groups
    ]


def referred(g: Group) -> Group:
    """Give answers to other prompts a reference too: any numbers will do."""
    return replace(
        g,
        completions=tuple(
            replace(c, logp=np.linspace(-4, -1, len(c.tokens)) if c.logp is None else c.logp)
            for c in g.completions
        ),
    )


def offline(
    groups: list[Group], kind: type[DatasetSource], layout: Layout, budget: int
) -> DatasetSource:
    return kind(
        Groups.of(groups), size=len(groups), epochs=1, seed=Seed(3), layout=layout,
        tokens=budget, logp_is="ref_logp", divisible=False,
    )  # fmt: skip


CASES: dict[str, tuple[LossFunction, bool, type[DatasetSource]]] = {
    "nll": (the_nll, False, DatasetSource),
    "dpo": (the_dpo, False, DatasetSource),
    "bradley_terry": (the_reward, True, DatasetSource),
    "kto": (the_kto, False, MismatchedSource),
}


def cases(name: str) -> tuple[list[Group], LossFunction, bool, type[DatasetSource]]:
    loss, scalar, source = CASES[name]
    groups = masked(some_groups() + some_groups(1))
    if name in ("dpo", "bradley_terry"):
        groups = [g for g in groups if g.preferences]
    if name == "kto":
        groups = [replace(g, prompt=replace(g.prompt, text=str(i))) for i, g in enumerate(groups)]
        groups = [referred(g) for g in mismatch()(groups, Seed())]
    return groups, loss, scalar, source


def step(source: DatasetSource, trunk: PackedModel) -> list[Batch]:
    """Return the only step, with z0 where the whole step is one micro-batch too."""
    (micro,) = source.steps(trunk)
    if isinstance(source, MismatchedSource) and len(micro) == 1:
        with torch.no_grad():
            h = log_ratio(trunk(micro[0].tokens), micro[0])
        z0 = h[micro[0].weight == 0].mean().clamp(min=0)
        return [replace(micro[0], shared={"z0": z0})]
    return micro


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_does_not_depend_on_the_cut(name: str):
    """Budgets from one micro-batch to one a group, in both layouts, against the uncut step."""
    groups, loss, scalar, source = cases(name)
    shared, rows = trunks("llama", scalar)
    whole = step(offline(groups, source, "rows", 10**6), rows)
    assert len(whole) == 1
    wanted = gradient(rows, whole, loss)
    cuts = set()
    for budget in (1, 60, 120, 300):
        for trunk, layout in ((shared, "shared"), (rows, "rows")):
            micro = step(offline(groups, source, layout, budget), trunk)
            cuts.add(len(micro))
            close(gradient(trunk, micro, loss), wanted, BOUND)
    assert len(cuts) > 2


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_does_not_depend_on_the_order(name: str):
    """Of groups, and of a group's completions: preferences, scores and columns follow."""
    groups, loss, scalar, source = cases(name)
    shared, _ = trunks("llama", scalar)
    wanted = gradient(shared, step(offline(groups, source, "shared", 150), shared), loss)
    rng = np.random.default_rng(0)
    for _ in range(3):
        other = [
            groups[i].keep(rng.permutation(len(groups[i])).tolist())
            for i in rng.permutation(len(groups))
        ]
        micro = step(offline(other, source, "shared", 150), shared)
        close(gradient(shared, micro, loss), wanted, BOUND)


def test_a_mean_of_means_would_be_another_number():
    """The cut matters to who divides too early: this is what the loop is exact about."""
    groups, loss, *_ = cases("nll")
    _, rows = trunks("llama")
    micro = step(offline(groups, DatasetSource, "rows", 60), rows)
    means = torch.stack([gradient(rows, [b], loss) for b in micro]).mean(0)
    exact = gradient(rows, micro, loss)
    assert (means - exact).norm() / exact.norm() > 0.05


def padded(batch: Batch, left: int, right: int) -> Batch:
    """Put columns of padding at both sides of layout `rows`; positions follow the real tokens."""
    t = batch.tokens
    rows, width = t.ids.shape
    wide = left + width + right

    def widen(x: torch.Tensor, value: Any) -> torch.Tensor:
        out = torch.full((rows, wide), value, dtype=x.dtype)
        out[:, left : left + width] = x
        return out

    def moved(flat: torch.Tensor) -> torch.Tensor:
        return flat // width * wide + flat % width + left

    return replace(
        batch,
        tokens=replace(
            t, ids=widen(t.ids, 7), positions=widen(t.positions, 1), real=widen(t.real, False),
            source=moved(t.source), last=moved(t.last),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["nll", "bradley_terry"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_padding_is_invisible(kind: str, name: str):
    """Left or right, with a token that is not the pad token."""
    groups, loss, scalar, _ = cases(name)
    _, rows = trunks(kind, scalar)
    batch = pack_groups(groups, "rows")
    wanted = gradient(rows, [batch], loss)
    for left, right in ((0, 9), (5, 0), (3, 4)):
        close(gradient(rows, [padded(batch, left, right)], loss), wanted, BOUND)


def test_a_large_group_is_spread_over_several_micro_batches():
    """Losses without pairs may train a group's completions apart, each part behind the prompt."""
    rng = np.random.default_rng(0)
    big = masked([group("big", rng, 20, rng.integers(1, 30, 12).tolist())])[0]
    small = group("small", rng, 4, (3,))
    shared, rows = trunks("llama")
    parts = list(cut_step([big, small], Cut(80), divisible=True))
    assert len(parts) >= 3
    assert sum(len(g) for micro in parts for _, g in micro) == 13
    assert all(sum(unique_tokens(g) for _, g in micro) <= 80 for micro in parts)
    micro = [pack_groups([g for _, g in m], "shared", numbers=[i for i, _ in m]) for m in parts]
    assert {int(n) for b in micro for n in b.group} == {0, 1}
    close(
        gradient(shared, micro, the_nll),
        gradient(rows, [pack_groups([big, small], "rows")], the_nll),
    )


def test_readings_come_back_in_the_order_of_completions():
    """A group above the budget is read in parts, and the longest part is not the first."""
    rng = np.random.default_rng(0)
    groups = [group("g", rng, 5, (2, 30, 4, 12, 12, 9)), group("h", rng, 9, (3, 3))]
    _, rows = trunks("llama")
    whole = list(forward_groups(rows, groups, 10**6, features=True))
    for budget in (1, 20, 40):
        for (g, a), (h, b) in zip(
            whole, forward_groups(rows, groups, budget, features=True), strict=True
        ):
            assert g is h
            assert [len(x) for x in b.logp] == [len(c.tokens) for c in g.completions]
            for x, y in zip(a.logp, b.logp, strict=True):
                assert np.abs(x - y).max() < 1e-5
            assert np.abs(a.features - b.features).max() < 1e-5


def test_a_group_above_the_budget_is_whole_where_it_may_not_be_cut():
    rng = np.random.default_rng(0)
    big = group("big", rng, 20, (30, 30, 30))
    assert [len(m) for m in cut_step([big, big], Cut(50))] == [1, 1]
    assert [len(g) for m in cut_step([big], Cut(50)) for _, g in m] == [3]


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_step_is_dealt_out_evenly_to_processes(parts: int):
    """Every process has as many micro-batches, of about the same size, and each group is in one."""
    rng = np.random.default_rng(parts)
    for case in range(40):
        shapes = [(int(p), rng.integers(1, 40, 2).tolist()) for p in rng.integers(1, 60, case + 1)]
        groups = [group(str(i), rng, p, n) for i, (p, n) in enumerate(shapes)]
        sizes = [unique_tokens(g) for g in groups]
        budget = int(rng.integers(max(sizes), 2 * sum(sizes) + 1))
        micro = cut_step(groups, Cut(budget, parts))
        dealt = [sum(unique_tokens(g) for _, g in m) for m in micro]
        assert sorted(i for m in micro for i, _ in m) == list(range(len(groups)))
        assert max(dealt) <= budget
        assert len(micro) % parts == 0 or len(micro) == len(groups)
        assert max(dealt) - min(dealt) <= max(sizes)


def test_dealing_never_breaks_the_budget():
    """3 + 3 and 2 + 2 + 2 are 6 each; the longest first, one would have 3 + 2 + 2."""
    rng = np.random.default_rng(0)
    groups = [group(str(i), rng, 1, (n - 1,)) for i, n in enumerate((3, 3, 2, 2, 2))]
    assert [len(m) for m in cut_step(groups, Cut(6, 2))] == [2, 3]
    assert [len(m) for m in cut_step(groups, Cut(7, 2))] == [3, 2]
    assert cut_step([], Cut(6, 2)) == []


def test_masked_tokens_have_no_gradient():
    """A completion's hidden tokens are context: changing the loss there changes nothing."""
    rng = np.random.default_rng(1)
    g = group("g", rng, 5, (8,))
    mask = np.array([True, True, False, False, False, True, True, True])
    shared, rows = trunks("llama")
    hidden = replace(g, completions=(replace(g.completions[0], mask=mask),))
    batch = pack_groups([hidden], "shared")
    assert batch.tokens.target.tolist() == g.completions[0].tokens[mask].tolist()
    full = rows(pack_groups([g], "rows").tokens).logp.values[torch.from_numpy(mask)]
    close(shared(batch.tokens).logp.values, full, 2e-6)
    everything_hidden = replace(g, completions=(replace(g.completions[0], mask=~np.ones(8, bool)),))
    both = pack_groups([everything_hidden, g], "shared")
    close(gradient(shared, [both], the_nll), gradient(rows, [pack_groups([g], "rows")], the_nll))


def test_machine_tokens_is_the_budget():
    """The setting that a user turns is the one that cuts."""
    groups = some_groups()
    sizes = [
        len(DatasetSource(Groups.of(groups), size=4, epochs=1, seed=Seed(), layout="shared",
                    tokens=Machine(tokens=t).tokens).batches(groups))
        for t in (10, 10_000)
    ]  # fmt: skip
    assert sizes == [4, 1]
    assert len(tokens(np.random.default_rng(0), 3)) == 3
