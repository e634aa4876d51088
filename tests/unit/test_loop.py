"""The one training loop: division by global weight, schedules, resume, adapters, export."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from climbing import Heard, somewhere
from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.packing import pack_groups
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ConfigError, DataError, ModelError
from tandem.judges.reward_model import RewardModel
from tandem.machine import Lora, Machine
from tandem.methods import dpo, reward, sft
from tandem.models import loading
from tandem.models.forward import with_logprobs
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.reference import reference_logprobs
from tandem.objectives import nll
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.events import Silent
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource
from tiny import close, folder, gradient, group, labelled, lm
from worlds import letters

FP32 = Machine(device="cpu", precision="fp32", save_seconds=0.0, log_every=1)
FAST = Optim(lr=3e-3, schedule="linear", warmup=0.2)


def data(n: int = 10, pairs: bool = True) -> Groups:
    rng = np.random.default_rng(0)
    lengths = [(int(a), int(b)) for a, b in rng.integers(2, 12, (n, 2))]
    groups = [
        group(str(i), rng, int(rng.integers(2, 9)), lengths[i] if pairs else lengths[i][:1])
        for i in range(n)
    ]
    return Groups.of(labelled(g, rng) if pairs else g for g in groups)


CONFIGS: dict[str, Any] = {
    "sft": sft.SFTConfig(epochs=2, batch=4, optim=FAST),
    "reward": reward.RewardConfig(epochs=2, batch=4, optim=FAST),
    "dpo": dpo.DPOConfig(epochs=2, batch=4, optim=FAST),
}
FITS = {"sft": sft.fit, "reward": reward.fit, "dpo": dpo.fit}


def fitted(
    name: str, place: Path, init: Path, machine: Machine = FP32, heard: Heard | None = None,
    groups: Groups | None = None, **changes: Any,
) -> Checkpoint:  # fmt: skip
    """Run a method's `fit` in a folder of its own, where it may be resumed."""
    ctx = StageContext.at(place, seed=Seed(5), events=heard or Heard(), machine=machine)
    groups = data(pairs=name != "sft") if groups is None else groups
    return FITS[name](Checkpoint(init), groups, replace(CONFIGS[name], **changes), ctx=ctx)


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


def the_nll(out: Outputs, batch: Batch) -> dict[str, Terms]:
    assert out.logp is not None
    return {"nll": nll(out.logp)}


def trained(
    loss: Any, optim: Optim, steps: int = 1, events: Any = None
) -> tuple[PackedModel, PackedModel]:
    """Train a llama for some steps; return it as it was and as it is."""
    before, after = PackedModel(lm()).eval(), PackedModel(lm())
    source = DatasetSource(data(), size=10, epochs=steps, seed=Seed(), layout="rows", tokens=10**6)
    train(after, source, loss, optim, somewhere(events or Silent(), FP32))
    return before, after


# --- a step is the same however it is cut -------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_accumulation_divides_by_the_weight_of_the_whole_step(name: str, tmp_path: Path):
    """One micro-batch a step, or one a group: the same weights after 6 steps.

    Dividing each micro-batch by its own weight would not be: a micro-batch of 1 token with loss 3
    and one of 9 tokens with loss 1 have the mean 12/10 = 1.2, and the mean of their means is 2.
    """
    init = folder(tmp_path / "init")
    calm = replace(FAST, eps=1e-3)  # Adam's g / |g| would blow rounding up where g is near 0
    whole = fitted(name, tmp_path / "whole", init, optim=calm)
    cut = fitted(name, tmp_path / "cut", init, replace(FP32, tokens=1), optim=calm)
    a, b, start = (torch.cat([p.flatten() for p in hf_weights(c)]) for c in (whole, cut, init))
    close(a - start, b - start, 1e-3)
    assert (a - b).abs().max() < 2e-5
    assert (a - start).abs().max() > 1e-3


def hf_weights(place: Checkpoint | Path) -> list[Tensor]:
    path = place.path if isinstance(place, Checkpoint) else place
    stored = hf.AutoModel.from_pretrained(path)
    return [p.detach() for p in stored.parameters()]


def test_the_example_of_two_micro_batches(tmp_path: Path):
    """The loss that is logged is 1.2 in the example above, whatever the cut."""

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        count = out.logp.count()[out.logp.owner]
        value = torch.where(count == 1, 3.0, 1.0) + 0 * out.logp.values
        return {"toy": Terms(value, torch.ones_like(value), {})}

    rng = np.random.default_rng(0)
    groups = Groups.of([group("a", rng, 2, (1,)), group("b", rng, 2, (9,))])
    for budget in (1, 100):
        heard = Heard()
        source = DatasetSource(groups, size=2, epochs=1, seed=Seed(), layout="rows", tokens=budget)
        train(PackedModel(lm()), source, loss, FAST, somewhere(heard, FP32))
        assert heard.of("train")[0]["toy_loss"] == pytest.approx(1.2)


def test_terms_are_divided_each_by_its_own_weight():
    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        tokens_, n = 0 * out.logp.values, batch.tokens.n
        ones = torch.ones(n)
        return {
            "a": Terms(2 + tokens_, torch.ones_like(tokens_), {}),
            "b": Terms(3 * ones + 0 * out.logp.sum(), ones, {"share": torch.arange(n) / n}),
        }

    heard = Heard()
    trained(loss, FAST, events=heard)
    line = heard.of("train")[0]
    assert line["a_loss"] == pytest.approx(2)
    assert line["b_loss"] == pytest.approx(3)
    assert line["share"] == pytest.approx(19 / 40)


def test_a_term_without_any_unit_is_refused():
    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        return {"nll": nll(out.logp, weight=torch.zeros(batch.tokens.n))}

    with pytest.raises(DataError, match=r"`nll` has weight 0\.0") as caught:
        trained(loss, FAST)
    assert caught.value.do


# --- the optimiser ------------------------------------------------------------------------------


def test_clipping_bounds_the_gradient_and_logs_it_unclipped():
    """With a huge eps Adam is plain descent: the first step is -lr g / eps, g clipped."""
    eps, lr = 1e3, 1.0
    loud = Heard()
    before, free = trained(the_nll, Optim(lr, "constant", 0.0, eps=eps, clip=None))
    _, clipped = trained(the_nll, Optim(lr, "constant", 0.0, eps=eps, clip=0.25), events=loud)
    step = {k: flat(m) - flat(before) for k, m in (("free", free), ("clipped", clipped))}
    norm = step["free"].norm().item() * eps / lr
    assert norm > 0.5
    assert step["clipped"].norm().item() * eps / lr == pytest.approx(0.25, rel=1e-2)
    close(step["clipped"] / step["clipped"].norm(), step["free"] / step["free"].norm(), 1e-2)
    assert loud.of("train")[0]["grad_norm"] == pytest.approx(norm, rel=1e-2)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_weight_decay_is_on_matrices_alone():
    """Without gradient Adam stands still, and decay multiplies by 1 - lr * decay."""

    def flat_loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        return {"none": Terms(0 * out.logp.values, torch.ones_like(out.logp.values), {})}

    before, after = trained(flat_loss, Optim(0.1, "constant", 0.0, weight_decay=0.5))
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        wanted = a * 0.95 if a.ndim >= 2 else a
        assert torch.allclose(b, wanted, rtol=1e-6), name


def test_schedules():
    """Ten steps with a warm-up of 2: rise 1/2, 1; then a fall over the eight steps left."""
    for shape, fall in (
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 0.1 + 0.9 * (1 - t)),
        ("cosine", lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * t)) / 2),
    ):
        optim = Optim(schedule=shape, warmup=0.2, final=0.1)
        wanted = [0.5, 1.0] + [fall(k / 8) for k in range(8)]
        assert [optim.factor(s, 10) for s in range(10)] == pytest.approx(wanted)
    assert Optim(schedule="linear", warmup=0).factor(0, 10) == 1
    assert Optim(schedule="cosine").factor(10, 10) == pytest.approx(0)


def test_the_schedule_reaches_the_optimiser(tmp_path: Path):
    heard = Heard()
    fitted("sft", tmp_path, folder(tmp_path / "init"), heard=heard)
    total = 2 * 3
    wanted = [FAST.lr * FAST.factor(s, total) for s in range(total)]
    assert [line["lr"] for line in heard.of("train")] == pytest.approx(wanted)


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr": math.nan}, {"warmup": 1.5}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]):
    with pytest.raises(ConfigError):
        Optim(**bad)


def test_a_loss_that_is_not_a_number_is_refused():
    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        value = out.logp.values * float("nan")
        return {"mine": Terms(value, torch.ones_like(value), {})}

    with pytest.raises(DataError, match=r"mine_loss.* is nan at optimiser step 1") as caught:
        trained(loss, FAST)
    assert caught.value.why
    assert caught.value.do


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("clip", [1.0, None])
def test_a_step_that_is_not_a_number_never_reaches_the_weights(where: str, clip: float | None):
    """Between two log lines (one every 100 steps) the third step breaks, in its loss or only in its
    gradient (that of sqrt at 0 is infinite): the weights are those of two steps."""
    calls = iter(range(100))
    seen: list[dict[str, torch.Tensor]] = []
    after = PackedModel(lm())

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        value = -out.logp.values
        if value.requires_grad and next(calls) == 2:
            seen.append({k: v.clone() for k, v in after.state_dict().items()})
            value = value * math.nan if where == "loss" else torch.sqrt(value - value.detach())
        return {"mine": Terms(value, torch.ones_like(value), {})}

    source = DatasetSource(data(), size=10, epochs=5, seed=Seed(), layout="rows", tokens=10**6)
    rare = replace(FP32, log_every=100)
    with pytest.raises(DataError, match="at optimiser step 3") as caught:
        train(after, source, loss, replace(FAST, clip=clip), somewhere(Silent(), rare))
    assert ("mine_loss" in caught.value.what) == (where == "loss")
    assert "grad_norm" in caught.value.what or where == "loss"
    assert all(torch.equal(v, seen[0][k]) for k, v in after.state_dict().items())


# --- what is logged -----------------------------------------------------------------------------


def test_the_log_is_the_mean_since_the_last_line(tmp_path: Path):
    """Six steps, a line every four: a mean of four, then of the two that are left."""
    init = folder(tmp_path / "init")
    fine, coarse = Heard(), Heard()
    fitted("sft", tmp_path / "a", init, heard=fine)
    fitted("sft", tmp_path / "b", init, replace(FP32, log_every=4), coarse)
    losses = [line["nll_loss"] for line in fine.of("train")]
    lines = coarse.of("train")
    assert [line["step"] for line in lines] == [4, 6]
    assert [line["nll_loss"] for line in lines] == pytest.approx(
        [np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-5
    )
    assert {"lr", "grad_norm", "tokens_per_s", "nll"} <= set(lines[0])
    assert coarse.lines[-1] == {"kind": "trained", "step": 6}


def test_the_first_loss_is_the_models_own(tmp_path: Path):
    """SFT's first line is HF's loss over the tokens of the step, summed and divided once."""
    init, groups, heard = folder(tmp_path / "init"), data(4, pairs=False), Heard()
    fitted("sft", tmp_path, init, heard=heard, groups=groups)
    stock, total, count = lm(), 0.0, 0
    for g in groups:
        ids = torch.tensor(np.concatenate([g.prompt.tokens, g.completions[0].tokens]))[None].long()
        labels = ids.clone()
        labels[:, : len(g.prompt.tokens)] = -100
        n = len(g.completions[0].tokens)
        total += stock(input_ids=ids, labels=labels).loss.item() * n
        count += n
    assert heard.of("train")[0]["nll_loss"] == pytest.approx(total / count, rel=1e-5)


# --- resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4.0)], ids=["full", "lora"])
@pytest.mark.parametrize("name", FITS)
def test_resume_equals_uninterrupted_bit_for_bit(name: str, lora: Lora | None, tmp_path: Path):
    """Killed twice, in the first epoch and in the second; the same file, byte for byte."""
    init, machine = folder(tmp_path / "init"), replace(FP32, lora=lora)
    calm = fitted(name, tmp_path / "calm", init, machine)
    for dies_at in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            fitted(name, tmp_path / "torn", init, machine, Heard(dies_at))
    heard = Heard()
    torn = fitted(name, tmp_path / "torn", init, machine, heard)
    assert [line["step"] for line in heard.of("train")] == [5, 6]
    assert weights(torn) == weights(calm)
    assert torn.hash == calm.hash
    assert weights(calm) != (init / "model.safetensors").read_bytes()


def test_the_log_after_a_resume_counts_its_own_steps(tmp_path: Path):
    """A line after a resume averages the steps since then, and not as many as are usual."""
    init, fine, late = folder(tmp_path / "init"), Heard(), Heard()
    fitted("sft", tmp_path / "a", init, heard=fine)
    with pytest.raises(KeyboardInterrupt):
        fitted("sft", tmp_path / "b", init, heard=Heard(dies_at=4))
    fitted("sft", tmp_path / "b", init, replace(FP32, log_every=5), late)
    losses = [line["nll_loss"] for line in fine.of("train")]
    assert late.of("train")[0]["nll_loss"] == pytest.approx(np.mean(losses[3:5]), rel=1e-5)


def test_the_order_of_steps_does_not_depend_on_a_resume():
    def source() -> DatasetSource:
        return DatasetSource(data(), size=4, epochs=3, seed=Seed(1), layout="rows", tokens=30)

    def told(steps: Iterator[list[Batch]]) -> list[list[list[int]]]:
        return [[b.tokens.ids.tolist() for b in step] for step in steps]

    module = nn.Linear(1, 1)
    whole = told(source().steps(module))
    assert len(whole) == source().total == 9
    first, second = source(), source()
    steps = first.steps(module)
    head = told(next(steps) for _ in range(4))
    second.load_state_dict(first.state_dict())
    assert head + told(second.steps(module)) == whole
    epochs = [sorted(str(x) for step in whole[k : k + 3] for x in step) for k in (0, 3, 6)]
    assert sum(len(s) for s in whole[:3]) >= 3
    assert epochs[0] != epochs[1]


def test_every_group_is_seen_once_an_epoch():
    source = DatasetSource(data(), size=4, epochs=2, seed=Seed(1), layout="rows", tokens=10**6)
    prompts = [
        tuple(row.tolist()) for step in source.steps(nn.Linear(1, 1)) for row in step[0].tokens.ids
    ]
    assert len(prompts) == 2 * 20
    shapes = [len(step[0].tokens.ids) for step in
              DatasetSource(data(), size=4, epochs=1, seed=Seed(1), layout="rows", tokens=10**6)
              .steps(nn.Linear(1, 1))]  # fmt: skip
    assert shapes == [8, 8, 4]


# --- adapters -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_adapters_train_and_are_exported_as_a_plain_folder(tmp_path: Path):
    """The merged folder, opened by transformers alone, equals base + adapter, opened by PEFT."""
    from peft import PeftModel

    init = folder(tmp_path / "init")
    made = fitted("sft", tmp_path, init, replace(FP32, lora=Lora(rank=4, alpha=8.0)))
    ids = torch.tensor([[5, 9, 12, 7, 30]])
    plain = hf.AutoModelForCausalLM.from_pretrained(made.path)
    assert type(plain).__name__ == "LlamaForCausalLM"
    base = hf.AutoModelForCausalLM.from_pretrained(init)
    start = base(ids).logits
    adapted = PeftModel.from_pretrained(base, made.path / "adapter")
    with torch.no_grad():
        assert (plain(ids).logits - adapted(ids).logits).abs().max() < 1e-5
        assert (plain(ids).logits - start).abs().max() > 1e-2


def test_the_reference_of_adapters_is_the_policy_without_them(tmp_path: Path):
    """DPO's first loss is ln 2, whatever the adapters; and the column is the initial policy's."""
    init, heard = folder(tmp_path / "init"), Heard()
    machine = replace(FP32, lora=Lora(rank=4))
    fitted("dpo", tmp_path, init, machine, heard)
    assert heard.of("train")[0]["sigmoid_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert heard.of("train")[-1]["sigmoid_loss"] != pytest.approx(math.log(2), abs=1e-4)
    column = reference_logprobs(Checkpoint(init), data(), machine)
    plain = with_logprobs(open_policy(init, FP32), data())
    for a, b in zip(column, plain, strict=True):
        for x, y in zip(a.completions, b.completions, strict=True):
            assert np.abs(x.logp - y.logp).max() < 1e-5


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_an_adapters_folder_is_the_same_bytes_in_every_process_and_place(tmp_path: Path):
    """PEFT writes the base's path and sets in the order of string hashes, new in every process."""
    init = folder(tmp_path / "init")
    machine = replace(FP32, lora=Lora(rank=2))
    made = fitted("sft", tmp_path, init, machine)
    config = json.loads((made.path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 14  # seven matrices in each of two layers
    assert not [f for f in made.path.rglob("*.json") if str(tmp_path) in f.read_text()]


def test_only_adapters_learn(tmp_path: Path):
    policy = open_policy(folder(tmp_path), replace(FP32, lora=Lora(rank=2)), train=True)
    learns = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert learns
    assert all("lora_" in n for n in learns)
    assert policy.layout == "shared"


def test_adapters_start_from_the_seed(tmp_path: Path):
    """Not from torch's global generator: the same run gives the same weights in any process."""
    init, machine = folder(tmp_path / "init"), replace(FP32, lora=Lora(rank=2))
    first = fitted("sft", tmp_path / "a", init, machine)
    torch.rand(17)
    assert fitted("sft", tmp_path / "b", init, machine).hash == first.hash


# --- memory and ties ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient(kind: str, tmp_path: Path):
    init = folder(tmp_path, kind)
    lean, fat = (
        open_policy(init, replace(FP32, checkpointing=c), train=True) for c in (True, False)
    )
    batch = pack_groups(list(data()), lean.layout)
    assert torch.equal(gradient(lean, [batch], the_nll), gradient(fat, [batch], the_nll))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, id):
        lean(batch.tokens)
        with_recompute = sum(saved)
        saved.clear()
        fat(batch.tokens)
    assert with_recompute < 0.7 * sum(saved)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_gradients_equal_the_models_own(kind: str):
    """Tied embeddings receive both parts: as an input and as the head."""
    g = group("g", np.random.default_rng(0), 6, (9,))
    mine, stock = PackedModel(lm(kind)).eval(), lm(kind)
    ids = torch.from_numpy(np.concatenate([g.prompt.tokens, g.completions[0].tokens])).long()[None]
    labels = ids.clone()
    labels[:, :6] = -100
    stock(input_ids=ids, labels=labels).loss.backward()
    gradient(mine, [pack_groups([g], "rows")], the_nll)
    for (name, a), b in zip(mine.lm.named_parameters(), stock.parameters(), strict=True):
        if b.grad is None or not b.grad.norm():
            assert a.grad is None or not a.grad.norm(), name
        else:
            close(a.grad, b.grad)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_the_exported_folder_is_the_model_that_was_trained(kind: str, tmp_path: Path):
    init = folder(tmp_path / "init", kind)
    made = fitted("sft", tmp_path, init)
    assert "tandem" not in (made.path / "config.json").read_text()
    plain = hf.AutoModelForCausalLM.from_pretrained(made.path).eval()
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert tied == (kind != "llama")
    (g,) = with_logprobs(open_policy(made.path, FP32), data(1))
    for completion in g.completions:
        ids = torch.from_numpy(np.concatenate([g.prompt.tokens, completion.tokens])).long()[None]
        with torch.no_grad():
            logp = plain(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        assert np.abs(logp[len(g.prompt.tokens) - 1 :].numpy() - completion.logp).max() < 1e-5
    assert hf.AutoTokenizer.from_pretrained(made.path).eos_token_id == 2


# --- the scalar reward model --------------------------------------------------------------------


@pytest.mark.parametrize("unit_variance", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_reward_model_opens_in_transformers_with_the_same_scores(
    kind: str, unit_variance: bool, tmp_path: Path
):
    """score = gain * logits + bias; and the mean on the training answers is 0 by that bias."""
    made = fitted("reward", tmp_path, folder(tmp_path / "init", kind), unit_variance=unit_variance)
    judged = list(RewardModel(made, machine=FP32)(data()))
    model = hf.AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    gain, bias = (model.config.tandem[k] for k in ("gain", "bias"))
    for g in judged:
        raw = one_by_one(model, g)
        assert np.abs(gain * raw + bias - g.scores).max() < 1e-5
    scores = np.concatenate([g.scores for g in judged])
    assert abs(scores.mean()) < 1e-6
    assert not unit_variance or abs(scores.std() - 1) < 1e-6
    assert scores.std() > 1e-3


def test_a_reward_is_normalised_on_the_reference_answers_it_is_given(tmp_path: Path):
    """Mean 0 and variance 1 on answers of the reference, before any policy climbs it."""
    init, others = folder(tmp_path / "init"), data(7, pairs=False)
    cfg = replace(CONFIGS["reward"], unit_variance=True)
    ctx = StageContext.at(tmp_path, seed=Seed(5), machine=FP32)
    made = reward.fit(Checkpoint(init), data(), cfg, zero_on=others, ctx=ctx)
    scores = np.concatenate([g.scores for g in RewardModel(made, machine=FP32)(others)])
    assert abs(scores.mean()) < 1e-6
    assert abs(scores.std() - 1) < 1e-6
    own = np.concatenate([g.scores for g in RewardModel(made, machine=FP32)(data())])
    assert abs(own.mean()) > 1e-3


def one_by_one(model: Any, g: Group) -> np.ndarray:
    with torch.no_grad():
        rows = [model(sequence(g, k)[None]).logits.item() for k in range(len(g))]
    return np.array(rows)


def sequence(g: Group, k: int) -> Tensor:
    return torch.from_numpy(np.concatenate([g.prompt.tokens, g.completions[k].tokens])).long()


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_do_not_depend_on_the_side_of_padding(side: str, tmp_path: Path):
    made = fitted("reward", tmp_path, folder(tmp_path / "init"))
    (g,) = RewardModel(made, machine=FP32)(data(1))
    model = hf.AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(made.path, padding_side=side)
    rows = [sequence(g, k).tolist() for k in range(len(g))]
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    assert padded["input_ids"].eq(0).any()
    with torch.no_grad():
        raw = model(**padded).logits[:, 0].numpy()
    assert np.abs(raw + model.config.tandem["bias"] - g.scores).max() < 1e-4


def test_pad_may_be_the_end_of_a_sequence(tmp_path: Path):
    """The last token is read by its place, not by what it is: the same scores either way.

    transformers looks for the last token that is not padding, and would read the one before the
    end. So the folder says that there is no padding: one sequence at a time is right, and a
    padded batch is refused by transformers instead of misread.
    """
    made = {}
    for pad in ("<pad>", "<eos>"):
        init = folder(tmp_path / pad / "init")
        config = json.loads((init / "config.json").read_text())
        changed = json.dumps({**config, "pad_token_id": 2 if pad == "<eos>" else 0})
        (init / "config.json").write_text(changed)
        tokenizer = letters(41)
        tokenizer.pad_token = pad
        tokenizer.save_pretrained(init)
        made[pad] = fitted("reward", tmp_path / pad, init)
    judged = {p: [g.scores for g in RewardModel(c, machine=FP32)(data())] for p, c in made.items()}
    assert np.array_equal(*(np.concatenate(s) for s in judged.values()))
    model = hf.AutoModelForSequenceClassification.from_pretrained(made["<eos>"].path).eval()
    (g,) = RewardModel(made["<eos>"], machine=FP32)(data(1))
    assert np.abs(one_by_one(model, g) + model.config.tandem["bias"] - g.scores).max() < 1e-5
    with pytest.raises(ValueError, match="no padding token"):
        model(torch.zeros(2, 4, dtype=torch.long))


def test_sft_trains_the_end_although_it_is_the_padding(tmp_path: Path):
    """pad == eos masks nothing here: the end of a sequence gets likelier."""
    init = folder(tmp_path / "init", pad_token_id=2)
    tokenizer = letters(41)
    tokenizer.pad_token = "<eos>"
    tokenizer.save_pretrained(init)
    made = fitted("sft", tmp_path, init)

    def ends(path: Path) -> float:
        groups = with_logprobs(open_policy(path, FP32), data(pairs=False))
        return float(np.mean([g.completions[0].logp[-1] for g in groups]))

    assert ends(made.path) > ends(init) + 0.3


def test_weights_that_are_not_there_are_never_drawn_in_silence(tmp_path: Path):
    """A policy is no reward model, and a reward model has no language head."""
    policy = folder(tmp_path / "policy")
    with pytest.raises(ModelError, match=r"score\.weight") as caught:
        loading.load_scalar(policy, FP32)
    assert "policy" in str(caught.value)
    made = fitted("reward", tmp_path, policy)
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        loading.load_policy(made.path, FP32)


def test_metrics_are_means_over_units():
    """Ragged numbers of units a step: the metric is their mean, and not a mean of means."""

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        ones = Ragged(torch.ones_like(out.logp.values), out.logp.owner, out.logp.n)
        return {"t": Terms(0 * out.logp.values, ones.values, {"length": ones.sum()})}

    heard = Heard()
    source = DatasetSource(data(), size=3, epochs=1, seed=Seed(), layout="rows", tokens=20)
    machine = replace(FP32, log_every=100)
    train(PackedModel(lm()), source, loss, FAST, somewhere(heard, machine))
    lengths = [len(c.tokens) for g in data() for c in g.completions]
    assert heard.of("train")[-1]["length"] == pytest.approx(np.mean(lengths))


def test_steps_that_take_long_are_shown_one_by_one(monkeypatch: pytest.MonkeyPatch):
    """Ten steps of a minute each had no line before the tenth."""
    from tandem.training import step_log

    shown: list[tuple[Any, ...]] = []

    class Events(Silent):
        def progress(self, *args: Any, **numbers: Any) -> None:
            shown.append(args)

    now = iter([0.0, 6.0, 11.0, 12.0, 25.0])
    monkeypatch.setattr(step_log.time, "monotonic", lambda: next(now))
    log = step_log.StepLog(Events(), total=100, every=50, accelerator=None)  # type: ignore[arg-type]
    for step in (1, 2, 3, 4):
        log.step(step, lr=0.1, norm=1.0)
    assert shown == [(2, 100, "step"), (4, 100, "step")]
