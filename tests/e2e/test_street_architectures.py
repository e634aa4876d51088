"""Models of many families are trained as what they are, and saved as what was trained.

The other side of each comparison is transformers alone, which reads one sequence at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from architectures import ARCHITECTURES, VOCABULARY, random_model
from tandem.batching.packing import pack_groups
from tandem.data.record import Group
from tandem.errors import ModelError
from tandem.machine import Machine
from tandem.models.checks import check_policy
from tandem.models.loading import load_policy
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.probe import check_training_mode, toy_groups
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.fitting import save_checkpoint
from worlds import letters

MACHINE = Machine(device="cpu", precision="fp32")
ROWS = {
    "xglm", "bloom", "mpt", "gptj", "codegen", "openai-gpt", "gpt_neo", "falcon", "stablelm",
    "nemotron", "gpt_oss", "llama4_text", "minimax", "mamba2", "falcon_mamba", "rwkv",
    "recurrent_gemma", "lfm2", "jamba", "bamba", "falcon_h1", "granitemoehybrid", "qwen3_next",
}  # fmt: skip
"""Families that read one sequence a row: positions or states of their own."""
EVERY_DAY = ("opt", "granitemoehybrid")
KINDS = [k if k in EVERY_DAY else pytest.param(k, marks=pytest.mark.slow) for k in ARCHITECTURES]


def saved(kind: str, folder: Path) -> Path:
    random_model(kind).save_pretrained(folder)
    letters(VOCABULARY).save_pretrained(folder)
    check_policy(folder)
    return folder


def alone(lm: Any, groups: list[Group]) -> Tensor:
    """Return the log-probabilities of all completions, each sequence read by itself."""
    found: list[Tensor] = []
    with torch.no_grad():
        for group in groups:
            asked = len(group.prompt.tokens)
            for c in group.completions:
                ids = torch.from_numpy(np.concatenate([group.prompt.tokens, c.tokens])).long()
                logp = lm(input_ids=ids[None]).logits[0].log_softmax(-1)
                found.append(logp[asked - 1 : -1].gather(1, ids[asked:, None])[:, 0])
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_is_trained_as_it_is_and_saved_as_it_was_trained(kind: str, tmp_path: Path):
    base = Checkpoint(saved(kind, tmp_path / "base"), "base")
    policy = open_policy(base.path, MACHINE, train=True)
    assert policy.training
    assert policy.layout == ("rows" if kind in ROWS else "shared")
    groups = toy_groups(VOCABULARY)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():  # stands for a fit
            weight.add_(0.02 * torch.randn(weight.shape, generator=draw))
        trained = policy(pack_groups(groups, policy.layout).tokens).logp.values
    out = save_checkpoint(policy, base, StageContext.at(tmp_path / "out", machine=MACHINE), "SFT")
    opened: Any = hf.AutoModelForCausalLM.from_pretrained(out.path)
    before: Any = hf.AutoModelForCausalLM.from_pretrained(base.path)
    assert (alone(opened.eval(), groups) - trained).abs().max() < 2e-4
    assert (alone(before.eval(), groups) - trained).abs().max() > 1e-2, "something was trained"


def test_chance_that_is_hidden_is_refused(tmp_path: Path):
    lm = load_policy(saved("opt", tmp_path / "base"), MACHINE)
    trunk = PackedModel(lm)
    check_training_mode(trunk)
    trunk.body.decoder.layers[0].dropout = 0.3  # as a family may hide it under another name
    with pytest.raises(ModelError, match="something else while it is trained"):
        check_training_mode(trunk)


def test_a_cap_is_seen_in_a_model_that_never_reaches_it(tmp_path: Path, monkeypatch):
    """At initialisation a cap of 30 moves no log-probability by as much as a probe's tolerance."""
    source = saved("recurrent_gemma", tmp_path / "base")
    monkeypatch.setattr("tandem.models.packed.CAPS", ())
    with pytest.raises(ModelError, match="differ from its own"):
        open_policy(source, MACHINE)
