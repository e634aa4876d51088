"""Training the rows that are read is training the table, wherever it is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from climbing import FP32, Heard, somewhere
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import DataError
from tandem.kernels.embedding_rows import train_only_rows
from tandem.machine import Lora, Machine
from tandem.methods import reward
from tandem.models import loading
from tandem.models.lora import add_adapters
from tandem.models.packed import PackedModel
from tandem.objectives import bradley_terry, nll
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.events import Silent
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource
from tiny import folder, lm

OPTIM = Optim(lr=1e-2, schedule="linear", clip=None)
FEW = 16


def comparisons(n: int = 6, ids: int = FEW) -> Groups:
    rng = np.random.default_rng(0)

    def draw(k: int) -> Any:
        return rng.integers(1, ids, k).astype(np.int32)

    return Groups.of(
        Group(
            Prompt(str(i), "", tokens=draw(5)),
            (Completion("", draw(4)), Completion("", draw(7))),
            preferences=(Preference(0, 1),),
        )
        for i in range(n)
    )


class Unknown(DatasetSource):
    """A source that does not tell what it reads."""

    def reads(self) -> Any:
        return None

    def sizes(self) -> Any:
        return None


def trained(model: Any, told: bool, loss: Any, optim: Optim = OPTIM) -> tuple[Tensor, int]:
    """Return all weights after some steps, and how many rows the table had meanwhile."""
    trunk, rows = PackedModel(model), list[int]()

    def watched(out: Any, batch: Any) -> Any:
        rows.append(len(model.get_input_embeddings().weight))
        return loss(out, batch)

    kind = DatasetSource if told else Unknown
    source = kind(comparisons(), size=2, epochs=2, seed=Seed(0), layout="rows", tokens=64)
    before = type(model.get_input_embeddings())
    train(trunk, source, watched, optim, somewhere(Silent()))
    assert type(model.get_input_embeddings()) is before
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()]), rows[0]


def scored(kind: str = "llama") -> Any:
    still: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    more = still if kind == "gpt2" else {}
    return lm(kind, auto=hf.AutoModelForSequenceClassification, num_labels=1, **more)


def compare(out: Any, batch: Any) -> Any:
    return {"bradley_terry": bradley_terry(out.score, batch.pairs)}


def likelihood(out: Any, batch: Any) -> Any:
    return {"nll": nll(out.logp)}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "neox", "mistral"])
def test_every_weight_ends_where_it_would_have(kind: str):
    (rows, few), (whole, all_) = (trained(scored(kind), told, compare) for told in (True, False))
    assert few < all_ / 2
    assert torch.equal(rows, whole)


def test_a_table_that_scales_is_more_than_a_look_up():
    (rows, few), (whole, all_) = (
        trained(scored("gemma2"), told, compare) for told in (True, False)
    )
    assert few == all_
    assert torch.equal(rows, whole)


def test_a_clipped_step_is_the_same_step():
    optim = Optim(lr=1e-2, schedule="linear", clip=1e-3)
    rows, whole = (trained(scored(), told, compare, optim) for told in (True, False))
    assert torch.equal(rows[0], whole[0])


def test_a_language_model_of_two_tables_learns_the_same():
    rows, whole = (
        trained(lm("llama", tie_word_embeddings=False), told, likelihood) for told in (True, False)
    )
    assert rows[1] < whole[1]
    assert torch.equal(rows[0], whole[0])


@pytest.mark.parametrize(
    ("model", "loss", "optim"),
    [
        (lambda: lm("llama-tied"), likelihood, OPTIM),
        (scored, compare, Optim(lr=1e-2, weight_decay=0.1)),
    ],
    ids=["a table that is the head", "weight decay"],
)
def test_all_rows_are_trained_where_all_rows_move(model: Any, loss: Any, optim: Optim):
    rows, whole = (trained(model(), told, loss, optim) for told in (True, False))
    assert rows[1] == whole[1]
    assert torch.equal(rows[0], whole[0])


def test_a_table_of_which_most_is_read_is_left_alone():
    model = scored()
    table: Any = model.get_input_embeddings()
    with train_only_rows(model, np.arange(len(table.weight) // 2 + 1, dtype=np.int32), 0.0):
        assert model.get_input_embeddings() is table


def test_a_frozen_table_is_left_alone(tmp_path: Path):
    adapted: Any = add_adapters(
        loading.load_policy(folder(tmp_path / "lm"), Machine(device="cpu")), Lora(rank=2), Seed(0)
    )
    table = adapted.get_input_embeddings()
    with train_only_rows(adapted, np.arange(3, dtype=np.int32), 0.0):
        assert adapted.get_input_embeddings() is table


def test_a_row_that_was_not_announced_is_refused_and_a_failure_loses_nothing():
    model = scored()
    table: Any = model.get_input_embeddings()

    def wrong() -> None:
        with train_only_rows(model, np.array([3, 5], np.int32), 0.0), torch.no_grad():
            rows: Any = model.get_input_embeddings()
            rows.weight[1] = 7.0
            rows(torch.tensor([4]))

    with pytest.raises(IndexError):
        wrong()
    assert model.get_input_embeddings() is table
    assert (table.weight[3] == 7.0).all()
    assert not (table.weight[5] == 7.0).any()


def test_the_row_of_the_padding_token_gets_no_gradient():
    model = scored()
    table = nn.Embedding(64, model.config.hidden_size, padding_idx=5)
    model.set_input_embeddings(table)
    with train_only_rows(model, np.array([3, 5], np.int32), 0.0):
        rows: Any = model.get_input_embeddings()
        rows(torch.tensor([3, 5])).sum().backward()
        assert rows.weight.grad.abs().sum(1).tolist() == [0.0, rows.weight.shape[1], 0.0]


def test_a_table_that_moved_to_another_type_of_memory_comes_back_there():
    model = scored()
    with train_only_rows(model, np.array([3], np.int32), 0.0):
        model.to("meta")
    assert model.get_input_embeddings().weight.device.type == "meta"


def test_a_killed_fit_of_rows_goes_on(tmp_path: Path):
    init, cfg = (
        Checkpoint(folder(tmp_path / "lm")),
        reward.RewardConfig(epochs=2, batch=2, optim=OPTIM),
    )
    whole, killed = (StageContext.at(tmp_path / name, machine=FP32) for name in ("whole", "killed"))
    dies, goes_on = Heard(dies_at=3), Heard()
    reward.fit(init, comparisons(), cfg, ctx=whole)
    with pytest.raises(KeyboardInterrupt):
        reward.fit(init, comparisons(), cfg, ctx=replace(killed, events=dies))
    reward.fit(init, comparisons(), cfg, ctx=replace(killed, events=goes_on))
    assert [line["step"] for line in goes_on.of("train")] == [3, 4, 5, 6]
    assert weights(whole) == weights(killed)


def test_the_state_of_another_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    init, cfg = (
        Checkpoint(folder(tmp_path / "lm")),
        reward.RewardConfig(epochs=2, batch=2, optim=OPTIM),
    )
    ctx = StageContext.at(tmp_path / "run", machine=FP32)
    with pytest.raises(KeyboardInterrupt):
        reward.fit(init, comparisons(), cfg, ctx=replace(ctx, events=Heard(dies_at=3)))
    monkeypatch.setattr(DatasetSource, "reads", lambda self: None)
    with pytest.raises(DataError, match=r"state\.safetensors is of another model"):
        reward.fit(init, comparisons(), cfg, ctx=ctx)


def weights(ctx: StageContext) -> bytes:
    return (ctx.out / "model.safetensors").read_bytes()
