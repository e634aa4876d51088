"""Parity with TRL 1.16: the same weights and batches give the same losses and gradients.

TRL's side is a real trainer object's own `compute_loss` on a batch of its own collator. Ours is
the whole path of training: pack, kernel, objective, division by the step's weight, in both
layouts. fp32, a random Llama; every parameter's gradient agrees to 1e-5 of its norm.

Names that differ (`tandem.objectives.pairwise`): TRL's `hinge` is our `hinge_norm`, its
`sigmoid_norm` our `length_normalised`, its `ipo` our `ipo` with the length norm; its
`label_smoothing` does nothing to `sigmoid`, where ours is named `cdpo`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.packing import pack_groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.models.packed import PackedModel
from tandem.models.probe import probe_layout
from tandem.objectives import PAIRWISE, bradley_terry, kl, kto, kto_z0, nll, ppo_clip
from tandem.training.loop import sum_terms, term_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("trl", reason="the optional peer library TRL is not installed")
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )
    from trl import (
        DPOConfig,
        DPOTrainer,
        GRPOConfig,
        GRPOTrainer,
        KTOConfig,
        KTOTrainer,
        RewardConfig,
        RewardTrainer,
        SFTConfig,
        SFTTrainer,
    )

pytestmark = [
    pytest.mark.trl,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not trl.__version__.startswith("1.16"), reason="parity is with TRL 1.16"),
]

LAYOUTS = ("shared", "rows")
VOCABULARY = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(40))]
PAIRS = [
    ("w1 w2 w3", " w4 w5 w6", " w9"),
    ("w7 w8", " w4", " w9 w3 w3 w20"),
    ("w11 w12 w13 w14", " w30 w31", " w5 w6 w7"),
]
Loss = Callable[[Outputs, Batch], dict[str, Terms]]


# --- the shared ground --------------------------------------------------------------------------


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def llama(seed: int, kind: type[Any] = LlamaForCausalLM) -> Any:
    torch.manual_seed(seed)
    extra = {} if kind is LlamaForCausalLM else {"num_labels": 1}
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **extra,
    )
    return kind(config)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Return what every TRL configuration here has in common: fp32, CPU, one plain batch."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "max_length": None,
    } | more


def first_batch(trainer: Any) -> dict[str, Any]:
    return next(iter(trainer.get_train_dataloader()))


@dataclass
class Side:
    """A loss and the gradient of every parameter."""

    loss: float
    grads: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @staticmethod
    def of(loss: Tensor, model: nn.Module) -> Side:
        """Differentiate."""
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return Side(loss.item(), grads)


def ours(
    lm: Any,
    groups: Sequence[Group],
    loss: Loss,
    layout: str,
    columns: dict[str, list[list[np.ndarray]]] | None = None,
) -> Side:
    """Run the real path: one micro-batch in layout `shared`, one a group in layout `rows`."""
    lm = copy.deepcopy(lm)
    trunk = reader(lm, layout)
    cuts = (
        [slice(0, len(groups))]
        if layout == "shared"
        else [slice(i, i + 1) for i in range(len(groups))]
    )
    micro = [
        pack_groups(groups[cut], layout, {k: v[cut] for k, v in (columns or {}).items()})
        for cut in cuts
    ]
    weights = term_weights(loss, micro, "cpu")
    parts = [sum_terms(loss(trunk(b.tokens), b), weights) for b in micro]
    return Side.of(torch.stack(parts).sum(), lm)


def reader(lm: Any, layout: str) -> PackedModel:
    trunk = PackedModel(lm)
    assert layout == "rows" or probe_layout(trunk) == "shared"
    return trunk


def logps(lm: Any, groups: Sequence[Group], layout: str) -> list[list[np.ndarray]]:
    """Return the column of log-probabilities under a frozen model."""
    trunk = reader(copy.deepcopy(lm), layout)
    with torch.no_grad():
        rows = [trunk(pack_groups([g], layout).tokens).logp.rows() for g in groups]
    return [[r.numpy() for r in group] for group in rows]


def agree(mine: Side, theirs: Side, bound: float = 1e-5) -> None:
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert mine.grads.keys() == theirs.grads.keys()
    for name, g in theirs.grads.items():
        off = (mine.grads[name] - g).norm().item()
        assert off <= bound * g.norm().item(), f"{name}: off by {off / g.norm().item():.2e}"
    assert max(g.norm().item() for g in theirs.grads.values()) > 0


def halves(row: dict[str, Tensor], prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Split one padded sequence of TRL's into prompt and completion."""
    real = row[f"{prefix}attention_mask"].bool()
    answer = row[f"{prefix}completion_mask"].bool() & real
    ids = row[f"{prefix}input_ids"].to(torch.int32)
    return ids[real & ~answer].numpy(), ids[answer].numpy()


def rows_of(batch: dict[str, Any]) -> list[dict[str, Tensor]]:
    n = len(batch["input_ids"])
    tensors = {k: v for k, v in batch.items() if isinstance(v, Tensor) and len(v) == n}
    return [{k: v[i] for k, v in tensors.items()} for i in range(n)]


def group(name: int, prompt: np.ndarray, answers: list[np.ndarray], **more: Any) -> Group:
    asked = Prompt(str(name), "", tokens=prompt)
    return Group(asked, tuple(Completion("", a) for a in answers), **more)


def pair_groups(batch: dict[str, Any], margins: list[float] | None = None) -> list[Group]:
    """TRL's batch is all chosen, then all rejected; ours is one group of two a prompt."""
    rows = rows_of(batch)
    m = len(rows) // 2
    groups = []
    for i, (w, l) in enumerate(zip(rows[:m], rows[m:], strict=True)):  # noqa: E741
        (prompt, better), (same, worse) = halves(w), halves(l)
        assert prompt.tolist() == same.tolist()
        click = Preference(0, 1, margin=None if margins is None else margins[i])
        groups.append(group(i, prompt, [better, worse], preferences=(click,)))
    return groups


# --- DPO ----------------------------------------------------------------------------------------


def dpo_trainer(folder: Path, name: str, **more: Any) -> Any:
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
    sampling = settings(folder, loss_type=[name], beta=0.3, per_device_train_batch_size=3, **more)
    return DPOTrainer(
        model=llama(0),
        ref_model=llama(1),
        args=DPOConfig(**sampling),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )


DPO_NAMES = [
    ("sigmoid", {}, "sigmoid", {"beta": 0.3}),
    ("hinge", {}, "hinge_norm", {"beta": 0.3}),
    ("ipo", {}, "ipo", {"tau": 0.3}),
    ("robust", {"label_smoothing": 0.2}, "robust", {"beta": 0.3, "noise": 0.2}),
    ("sigmoid_norm", {}, "length_normalised", {"beta": 0.3}),
    ("sppo_hard", {}, "sppo_hard", {"beta": 0.3}),
]


@pytest.mark.parametrize(
    ("theirs", "more", "name", "set_to"), DPO_NAMES, ids=[n[0] for n in DPO_NAMES]
)
def test_dpo(tmp_path: Path, theirs: str, more: dict, name: str, set_to: dict):
    trainer = dpo_trainer(tmp_path, theirs, **more)
    batch = first_batch(trainer)
    peer = Side.of(trainer.compute_loss(trainer.model, batch), trainer.model)
    groups = pair_groups(batch)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        return {"dpo": PAIRWISE[name](out.logp, batch.ref_logp, batch.pairs, **set_to)}

    for layout in LAYOUTS:
        columns = {"ref_logp": logps(llama(1), groups, layout)}
        agree(ours(llama(0), groups, loss, layout, columns), peer)


def test_label_smoothing_is_ignored_by_trl_sigmoid_and_is_cdpo_here(tmp_path: Path):
    trainer = dpo_trainer(tmp_path, "sigmoid", label_smoothing=0.2)
    batch = first_batch(trainer)
    peer = trainer.compute_loss(trainer.model, batch).item()
    groups = pair_groups(batch)
    columns = {"ref_logp": logps(llama(1), groups, "rows")}

    def value(name: str, **set_to: float) -> float:
        def loss(out: Outputs, b: Batch) -> dict[str, Terms]:
            return {"dpo": PAIRWISE[name](out.logp, b.ref_logp, b.pairs, beta=0.3, **set_to)}

        return ours(llama(0), groups, loss, "rows", columns).loss

    assert value("sigmoid") == pytest.approx(peer, rel=1e-5)
    assert abs(value("cdpo", smoothing=0.2) - peer) > 1e-3


# --- SFT, reward model, KTO ---------------------------------------------------------------------


def test_sft(tmp_path: Path):
    rows = [{"prompt": p, "completion": c} for p, c, _ in PAIRS]
    trainer = SFTTrainer(
        model=llama(0),
        args=SFTConfig(**settings(tmp_path, per_device_train_batch_size=3)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    batch = first_batch(trainer)
    groups = []
    for i, row in enumerate(rows_of(batch)):
        answer = row["labels"] != -100
        ids = row["input_ids"].to(torch.int32)
        prompt = ids[: int(answer.nonzero()[0])].numpy()
        groups.append(group(i, prompt, [ids[answer].numpy()]))
    peer = Side.of(trainer.compute_loss(trainer.model, batch), trainer.model)
    for layout in LAYOUTS:
        agree(ours(llama(0), groups, lambda out, _: {"nll": nll(out.logp)}, layout), peer)


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("margins", [None, [1.0, 0.0, 0.4]])
def test_reward_model(tmp_path: Path, centring: float | None, margins: list[float] | None):
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
    if margins is not None:
        rows = [r | {"margin": m} for r, m in zip(rows, margins, strict=True)]
    sampling = settings(
        tmp_path, per_device_train_batch_size=3, center_rewards_coefficient=centring
    )
    trainer = RewardTrainer(
        model=llama(0, LlamaForSequenceClassification),
        args=RewardConfig(**sampling, dataloader_drop_last=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    batch = first_batch(trainer)
    # the batch does not say where a prompt ends, and a scalar head does not care: its first token
    position = torch.arange(batch["input_ids"].shape[1])
    groups = pair_groups(
        batch | {"completion_mask": (position > 0).expand_as(batch["input_ids"])},
        None if margins is None else batch["margin"].tolist(),
    )
    peer = Side.of(trainer.compute_loss(trainer.model, batch), trainer.model)

    def loss(out: Outputs, b: Batch) -> dict[str, Terms]:
        return {"reward": bradley_terry(out.score, b.pairs, centring=centring or 0.0)}

    for layout in LAYOUTS:
        agree(ours(llama(0, LlamaForSequenceClassification), groups, loss, layout), peer)


@pytest.mark.parametrize(("seed", "ref", "clamped"), [(0, 1, True), (1, 0, False)])
def test_kto(tmp_path: Path, seed: int, ref: int, clamped: bool):
    """z0 is computed over the whole step before it is split; the neighbour is TRL's."""
    rows = [
        {"prompt": p, "completion": c if i != 1 else r, "label": i != 1}
        for i, (p, c, r) in enumerate(PAIRS)
    ]
    sampling = settings(tmp_path, per_device_train_batch_size=3, beta=0.3)
    trainer = KTOTrainer(
        model=llama(seed),
        ref_model=llama(ref),
        args=KTOConfig(**sampling, desirable_weight=1.2, undesirable_weight=0.7),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    batch = first_batch(trainer)
    peer = Side.of(trainer.compute_loss(trainer.model, batch), trainer.model)
    groups, mismatched = [], []
    for i, row in enumerate(rows_of(batch)):
        score = np.array([float(row["label"])])
        prompt, answer = halves(row)
        groups.append(group(i, prompt, [answer], scores=score))
        prompt, answer = halves(row, "KL_")
        mismatched.append(group(i, prompt, [answer]))
    for layout in LAYOUTS:
        policy, frozen = (logps(llama(s), mismatched, layout) for s in (seed, ref))
        h = [float(a[0].sum() - b[0].sum()) for a, b in zip(policy, frozen, strict=True)]
        z0 = kto_z0(torch.tensor(h))
        assert clamped == (z0 == 0)

        def loss(out: Outputs, b: Batch, z0: Tensor = z0) -> dict[str, Terms]:
            h = (out.logp - b.ref_logp).sum()
            return {"kto": kto(h, b.scores, z0, beta=0.3, lam_d=1.2, lam_u=0.7)}

        columns = {"ref_logp": logps(llama(ref), groups, layout)}
        agree(ours(llama(seed), groups, loss, layout, columns), peer)


# --- GRPO and its relatives ---------------------------------------------------------------------

GRPO_NAMES = {
    "grpo": ("grpo", {"per": "sequence"}, {"beta": 0.04}),
    "grpo-weighted": ("grpo", {"per": "sequence"}, {"beta": 0.04, "weighted": True}),
    "gspo": ("grpo", {"per": "sequence", "ratio": "sequence"}, {}),
    "dr_grpo": ("dr_grpo", {"per": "constant", "length": 6.0}, {}),
    "dapo": ("bnpo", {"per": "token", "clip_high": 0.28}, {}),
}


@pytest.mark.parametrize(("name", "sampling", "penalty"), GRPO_NAMES.values(), ids=GRPO_NAMES)
def test_grpo(tmp_path: Path, name: str, sampling: dict, penalty: dict):
    """Two prompts, two answers each, sampled by another policy, so that ratios are clipped.

    TRL weights its k3 by pi/pi_old unless `use_bias_correction_kl=False`, which is GRPO's own.
    """
    beta, weighted = penalty.get("beta", 0.0), penalty.get("weighted", False)
    config = settings(tmp_path, loss_type=name, num_generations=2)
    del config["max_length"]
    config |= {"per_device_train_batch_size": 4, "max_completion_length": 6, "epsilon": 0.2}
    config |= {"epsilon_high": sampling.get("clip_high", 0.2), "use_bias_correction_kl": weighted}
    trainer = GRPOTrainer(
        model=llama(0),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(**config, importance_sampling_level=sampling.get("ratio", "token")),
        train_dataset=Dataset.from_list([{"prompt": "w1 w2"}] * 4),
        processing_class=tokenizer(),
    )
    trainer.beta = beta  # as an argument it would have TRL load the reference from the hub
    trainer.model.eval()
    rng = np.random.default_rng(0)
    sizes, asked = [[2, 6], [4, 1]], [3, 5]
    groups = [
        group(
            i,
            rng.integers(3, 40, asked[i]).astype(np.int32),
            [rng.integers(3, 40, n).astype(np.int32) for n in size],
        )
        for i, size in enumerate(sizes)
    ]
    adv = [[1.0, -1.0], [0.6, -0.6]]
    columns = {"ref_logp": logps(llama(1), groups, "rows")}
    columns["advantages"] = [
        [np.full(n, a, np.float32) for n, a in zip(*of, strict=True)]
        for of in zip(sizes, adv, strict=True)
    ]
    columns["old_logp"] = [
        [x + rng.normal(0, 0.3, len(x)).astype(np.float32) for x in g]
        for g in logps(llama(0), groups, "rows")
    ]
    inputs = grpo_inputs(groups, columns, [a for pair in adv for a in pair])
    peer = Side.of(trainer._compute_loss(trainer.model, inputs), trainer.model)

    def loss(out: Outputs, b: Batch) -> dict[str, Terms]:
        terms = {"policy": ppo_clip(out.logp, b.old_logp, b.advantages, **sampling)}
        if beta:
            old = b.old_logp if weighted else None
            k3 = kl(out.logp, b.ref_logp, estimator="k3", ratio="token", per="sequence", old=old)
            terms["kl"] = k3._replace(loss=beta * k3.loss)
        return terms

    batch = pack_groups(groups, "rows", columns)
    moved = ppo_clip(
        reader(llama(0), "rows")(batch.tokens).logp, batch.old_logp, batch.advantages, **sampling
    )
    assert moved.metrics["clip_share"].sum() > 0, "no ratio is clipped, so clips are not tested"
    for layout in LAYOUTS:
        agree(ours(llama(0), groups, loss, layout, columns), peer)


def grpo_inputs(groups: list[Group], columns: dict[str, Any], adv: list[float]) -> dict[str, Any]:
    """Lay the same answers out as TRL does: prompts padded left, answers right."""
    prompts = [g.prompt.tokens for g in groups for _ in g.completions]
    answers = [c.tokens for g in groups for c in g.completions]

    def padded(rows: Sequence[np.ndarray], left: bool = False) -> Tensor:
        width = max(len(r) for r in rows)
        gap = [np.zeros(width - len(r), np.asarray(r).dtype) for r in rows]
        both = [np.concatenate([g, r] if left else [r, g]) for g, r in zip(gap, rows, strict=True)]
        return torch.tensor(np.stack(both))

    def real(rows: Sequence[np.ndarray], left: bool = False) -> Tensor:
        return padded([np.ones(len(r), np.int64) for r in rows], left)

    flat = {k: [a for g in columns[k] for a in g] for k in ("old_logp", "ref_logp")}
    return {
        "prompt_ids": padded(prompts, left=True).long(),
        "prompt_mask": real(prompts, left=True),
        "completion_ids": padded(answers).long(),
        "completion_mask": real(answers),
        "advantages": torch.tensor(adv),
        "old_per_token_logps": padded(flat["old_logp"]),
        "ref_per_token_logps": padded(flat["ref_logp"]),
    }
