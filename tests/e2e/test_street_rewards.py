"""Rewards that other trainers and servers give: read as they mean it, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from test_street_judges import QUICK, chat, judge_by, pairs, serving

import tiny
from tandem.data.groups import Groups
from tandem.engines.json_server import JsonServer
from tandem.errors import EngineError, JudgeError, ModelError
from tandem.judges.remote_reward import RemotePreference, RemoteReward
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.models.checks import check_reward
from tandem.models.loading import load_scalar
from tandem.runs.checkpoint import Checkpoint
from worlds import letters

MACHINE = Machine(device="cpu", precision="fp32")
HEADED = ("llama", "llama-tied", "qwen3", "gpt2", "neox", "mistral",
          "gemma2", "gemma3")  # fmt: skip


def reward_folder(folder: Path, kind: str = "llama", dtype: Any = torch.float32) -> Path:
    """Save a classifier of one label as `Trainer` does."""
    auto: Any = hf.AutoModelForSequenceClassification
    tiny.lm(kind, auto=auto, num_labels=1).to(dtype).save_pretrained(folder)
    letters(tiny.VOCABULARY).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind", [k if k == "qwen3" else pytest.param(k, marks=pytest.mark.slow) for k in HEADED]
)
def test_scores_are_those_that_transformers_gives_one_row_at_a_time(kind: str, tmp_path: Path):
    source = reward_folder(tmp_path / "reward", kind)
    check_reward(source)
    rng = np.random.default_rng(0)
    groups = Groups.of(tiny.group(f"g{k}", rng, 6, (5, 4)) for k in range(3))
    lm: Any = hf.AutoModelForSequenceClassification.from_pretrained(source).eval()
    for group in RewardModel(Checkpoint(source), machine=MACHINE)(groups):
        assert group.scores is not None
        for completion, score in zip(group.completions, group.scores, strict=True):
            ids = torch.tensor([[*group.prompt.tokens, *completion.tokens]])
            with torch.no_grad():
                assert float(lm(input_ids=ids).logits) == pytest.approx(float(score), abs=1e-4)


def rename(folder: Path, old: str, new: str) -> None:
    path = folder / "model.safetensors"
    weights = {k.replace(old, new): v for k, v in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FOLDERS: dict[str, tuple[Any, str]] = {
    "OpenRLHF's value head": (lambda f: rename(f, "score.weight", "value_head.weight"),
                              "lacks `score.weight`"),
    "TRL's value head": (lambda f: rename(f, "score.weight", "v_head.summary.weight"),
                          "lacks `score.weight`"),
    "a language model": (
        lambda f: (configure(f, architectures=["LlamaForCausalLM"]),
                   rename(f, "score.weight", "lm_head.weight")), "lacks `score.weight`"),
    "a head of another width": (
        lambda f: save_file({**load_file(f / "model.safetensors"), "score.weight":
                             torch.zeros(3, 32)}, f / "model.safetensors", {"format": "pt"}),
        "lacks `score.weight`"),
    "code of its own": (lambda f: configure(f, architectures=["InternLM2ForRewardModel"],
                                            model_type="internlm2"), "no configuration"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights at all"),
    "pickled weights": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
                        "no safetensors"),
    "quantised": (lambda f: configure(f, quantization_config={"quant_method": "awq"}),
                  "quantised by awq"),
    "five aspects": (lambda f: configure(f, id2label={str(k): str(k) for k in range(5)}),
                     "5 labels; a reward has one"),
    "an adapter": (lambda f: ((f / "config.json").unlink(), (f / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "base", "task_type": "SEQ_CLS"}')), "LoRA adapter of `base`"),
    "more layers than it says": (lambda f: configure(f, num_hidden_layers=1), "would ignore"),
}  # fmt: skip


def opened(source: Path) -> Any:
    check_reward(source)
    return load_scalar(source, MACHINE)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_reward_of_one_score(name: str, tmp_path: Path):
    if not (saved := tmp_path.parent / "a-reward").exists():
        reward_folder(saved)
    source = Path(shutil.copytree(saved, tmp_path / "reward"))
    change, words = FOLDERS[name]
    change(source)
    with pytest.raises(ModelError) as error:
        opened(source)
    assert words in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_reward_in_half_precision_is_read_in_full(dtype: Any, tmp_path: Path):
    lm = load_scalar(reward_folder(tmp_path / "reward", dtype=dtype), MACHINE)
    assert {w.dtype for w in lm.parameters()} == {torch.float32}


def rows(*values: Any, column: str = "score", **more: Any) -> dict[str, Any]:
    return {"data": [{"index": k, column: v, **more} for k, v in enumerate(values)]}


BIG = int("1" + "0" * 400)
ANSWERS: list[tuple[str, Any, str]] = [
    ("rewards", {"scores": [2, -1], "model": "x", "usage": {"total": 3}}, ""),
    ("rewards", {"scores": [2.0, -1.0], "rewards": "unread"}, ""),
    ("score", {"object": "list", **rows(2.0, -1.0, object="score")}, ""),
    ("score", {"data": rows(2.0, -1.0)["data"][::-1]}, ""),
    ("score", {"data": [{"score": 2.0}, {"score": -1.0}]}, ""),
    ("classify", rows([2.0], [-1.0], column="probs", label=None, num_classes=1), ""),
    ("pooling", rows([[0.5], [2.0]], [[0.1], [-1.0]], column="data"), ""),
    ("pooling", rows(2.0, -1.0, column="data"), ""),
    ("rewards", {"rewards": [2.0, -1.0]}, "it has `rewards`"),
    ("rewards", {"scores": [BIG, 1]}, "is not finite"),
    ("rewards", {"scores": [[2.0], [-1.0]]}, "is no number"),
    ("rewards", {"scores": None}, "no list of numbers"),
    ("rewards", {"scores": [2.0, -1.0, 0.0]}, "3 numbers"),
    ("score", {"data": [2.0, -1.0]}, "no table"),
    ("score", {"data": {"0": 2.0, "1": -1.0}}, "no list"),
    ("score", {"data": None}, "no list"),
    ("score", rows(2.0), "1 rows"),
    ("score", {"data": [{"index": 0, "score": 2.0}, {"index": 0, "score": -1.0}]}, "`index`"),
    ("score", {"data": [{"index": 1e400, "score": 2.0}, {"index": 0, "score": 1.0}]}, "`index`"),
    ("score", {"data": [{"index": "b", "score": 2.0}, {"index": 0, "score": 1.0}]}, "`index`"),
    ("classify", rows([0.9, 0.1], [0.2, 0.8], column="probs"), "2 numbers for one answer"),
    ("classify", rows([], [1.0], column="probs"), "empty list"),
    ("classify", rows(2.0, -1.0), "it has `index`, `score`"),
    ("pooling", rows([[0.1, 0.2]], [[0.3, 0.4]], column="data"), "2 numbers for one answer"),
]


@pytest.mark.parametrize(("route", "answer", "words"), ANSWERS)
def test_what_servers_answer(route: Any, answer: Any, words: str, tmp_path: Path):
    with serving(lambda path, body: answer) as url:
        server = JsonServer(f"{url}/{route}", patience=QUICK, kept=tmp_path / "kept.sqlite")
        if not words:
            (group,) = RemoteReward(server, route)(pairs(1))
            assert group.scores is not None
            assert list(group.scores) == [2.0, -1.0]
            return
        with pytest.raises(EngineError) as error:
            list(RemoteReward(server, route)(pairs(1)))
        assert words in error.value.what


@pytest.mark.parametrize(
    "given",
    [{"preferences": [0.5, BIG]}, {"preferences": [1.5, 0.2]}, {"preferences": [-0.1, 0.2]},
     {"preferences": ["0.5", "0.2"]}, {"preferences": 0.5}, {"scores": [0.5, 0.5]}, {}],
    ids=lambda given: str(given)[:30],
)  # fmt: skip
def test_what_is_no_probability(given: Any, tmp_path: Path):
    with serving(lambda path, body: given) as url:
        server = JsonServer(f"{url}/preferences", patience=QUICK, kept=tmp_path / "kept.sqlite")
        with pytest.raises(EngineError, match="gave no 2 probabilities"):
            list(RemotePreference(server)(pairs(1)))


def message(**more: Any) -> dict[str, Any]:
    answer = chat("")
    answer["choices"][0]["message"] = {"role": "assistant", "content": None} | more
    return answer


def part(kind: str, text: Any) -> dict[str, Any]:
    return {"type": kind, "text" if kind == "text" else kind: text}


THOUGHT = part("thinking", [part("text", "Verdict: B")])
SAID: dict[str, tuple[Any, bool]] = {
    "reasons in a field": (message(content="Verdict: A", reasoning="B B B"), True),
    "reasons in another": (message(content="Verdict: A", reasoning_content="Verdict: B"), True),
    "parts of text": (message(content=[part("text", "So.\n"), part("text", "Verdict: A")]), True),
    "a part of thought first": (message(content=[THOUGHT, part("text", "Verdict: A")]), True),
    "a thought that the template began": (chat("it is B.</think>Verdict: A"), True),
    "a thought within a thought": (chat("<think>a<think>b</think>c</think>\nVerdict: A"), True),
    "thought alone, in parts": (message(content=[THOUGHT]), False),
    "thought alone, in a field": (message(reasoning_content="Verdict: A"), False),
    "nothing": (message(content=""), False),
    "a refusal": (message(refusal="I cannot judge."), False),
    "a call": (message(tool_calls=[{"function": {"name": "judge", "arguments": "A"}}]), False),
    "cut": (chat("Verdict: A", "length"), False),
    "filtered": (chat("Verdict: A", "content_filter"), False),
    "both": (chat("Verdict: A or B"), False),
    "a score": (chat("Rating: [[8]]"), False),
    "no verdict": (chat("Both answers are good."), False),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_verdict_is_read_out_of_a_whole_answer_or_is_none(name: str, tmp_path: Path):
    """The server says the same in both orders: what is read is a tie of position, never a label."""
    answer, readable = SAID[name]
    with serving(lambda path, body: answer) as url:
        judge = judge_by(url, tmp_path)
        if not readable:
            with pytest.raises(JudgeError, match="could be read"):
                list(judge(pairs(1)))
            return
        (group,) = judge(pairs(1))
    assert [p.p for p in group.preferences] == [0.5]
    assert group.prompt.meta["ai"]["pairs"] == [{"odds": [[1.0, 1.0]], "rest": 0.0}]
