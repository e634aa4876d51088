"""GRPO with a reward of one's own: an answer key, a reward model's folder, a reward server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from test_street_judges import serving
from tokenizers import Tokenizer, models, pre_tokenizers

from tandem import cli
from worlds import markov_model

WORDS = ["<pad>", "<bos>", "<eos>", "A:", "####", "7", "8"]
SEVEN, EIGHT = 5, 6
TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% if m.role == 'user' %}A: {% endif %}{% endfor %}"
)
KEY = "sk-canary-of-a-reward"
FAST = [
    "--sampling.max_tokens=2", "--grpo.prompts=8", "--grpo.n=4", "--grpo.rounds=4",
    "--grpo.minibatch=8", "--grpo.optim.lr=0.05", "--evaluate=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that answers every question with `#### 7` (.6) or `#### 8` (.4)."""
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    words.chat_template = TEMPLATE
    laws = {
        "A:": {"####": 1.0}, "####": {"7": 0.6, "8": 0.4}, "7": {"<eos>": 1.0}, "8": {"<eos>": 1.0},
    }  # fmt: skip
    return markov_model(tmp_path_factory.mktemp("model") / "chat", laws, words)


@pytest.fixture(scope="module")
def reward(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that reads the last token, and likes 8 better than 7."""
    scalar: Any = hf.AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    with torch.no_grad():
        table = scalar.model.embed_tokens.weight
        scalar.score.weight[0] = table[EIGHT] - table[SEVEN]
    folder = tmp_path_factory.mktemp("reward") / "likes-8"
    scalar.save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def write_rows(path: Path, *, keys: bool) -> Path:
    """Write 24 questions whose answer is 8, or the prompts alone."""
    asked = [f"q {n} ?" for n in range(24)]
    rows: list[dict[str, Any]] = [
        {"question": q, "answer": "so\n#### 8"} if keys
        else {"prompt": [{"role": "user", "content": q}]}
        for q in asked
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def share_of_eight(run: Path) -> float:
    """Return the trained policy's probability of 8 behind `####`; .4 before training."""
    (folder,) = run.glob("[0-9][0-9]-grpo/artifact")
    policy: Any = hf.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = policy(torch.tensor([[3, 4]])).logits[0, -1]
    return float(torch.softmax(logits, -1)[EIGHT])


def test_an_answer_key_is_a_reward(model: Path, reward: Path, tmp_path: Path, capsys):
    data, out = write_rows(tmp_path / "sums.jsonl", keys=True), tmp_path / "run"
    words = ["run", "grpo", f"--model={model}", f"--data={data}", f"--out={out}", *FAST]
    assert cli.main(["plan", *words[1:], "--reward", "truth"]) == 0
    assert capsys.readouterr().out.split("\n")[0].split() == ["grpo"]  # no reward is fitted
    assert cli.main([*words, "--reward", "truth", "--evaluate=quick"]) == 0
    assert share_of_eight(out) > 0.6
    assert 'source = "truth"' in (out / "run.toml").read_text()
    (stage,) = out.glob("[0-9][0-9]-grpo/stage.json")
    watched = json.loads(stage.read_text())["arguments"]["validation"]
    assert watched["choose"] is None  # the last policy is kept
    assert [column for column, _ in watched["judges"]] == ["truth"]
    capsys.readouterr()
    assert cli.main([*words, "--reward", str(reward)]) == 2
    assert "was made with other arguments" in capsys.readouterr().err
    assert cli.main(["run", "grpo", f"--config={out / 'run.toml'}", f"--out={out}"]) == 0
    assert "grpo  kept" in capsys.readouterr().err


def test_a_folder_is_a_reward(model: Path, reward: Path, tmp_path: Path):
    data, out = write_rows(tmp_path / "prompts.jsonl", keys=False), tmp_path / "run"
    words = ["run", "grpo", f"--model={model}", f"--data={data}", f"--out={out}", *FAST]
    assert cli.main([*words, "--reward", str(reward)]) == 0
    assert share_of_eight(out) > 0.6


def test_a_server_is_a_reward(model: Path, tmp_path: Path, monkeypatch, capsys):
    data, out = write_rows(tmp_path / "prompts.jsonl", keys=False), tmp_path / "run"
    monkeypatch.setenv("REWARD_KEY", KEY)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))

    def score(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"scores": [float(x["answer"].endswith("8")) for x in body["inputs"]]}

    with serving(score) as url:
        words = ["run", "grpo", f"--model={model}", f"--data={data}", f"--out={out}", *FAST]
        words += [f"--reward={url}/mine", "--reward.key=REWARD_KEY"]
        assert cli.main(words) == 0
    assert share_of_eight(out) > 0.6
    assert 'key = "REWARD_KEY"' in (out / "run.toml").read_text()
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
