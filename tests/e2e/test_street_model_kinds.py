"""More models of each kind that people bring: what is right stands in `other_models`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_street_models import model, pairs

import tiny
from other_models import ENCODERS, FAMILIES, LABELS, ONE, REFUSED, Family
from tandem import cli
from tandem.data.chat import encode_groups
from tandem.data.chat.ends import end_tokens, named_ends
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.errors import ModelError
from tandem.machine import Machine
from tandem.models.checks import check_policy, check_reward
from tandem.models.tokenizers import UnknownTokens
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Silent
from tandem.stages.sampling import sample


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("whole") / "model")


def changed(whole: Path, folder: Path, **changes: Any) -> Path:
    """Return a copy of a folder, its files linked, with changes in its config.json."""
    shutil.copytree(whole, folder, copy_function=os.link)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps(config))
    return folder


def asked(family: Family, *said: str) -> Any:
    """Return the tokenizer, and a conversation of one or more answers in its tokens."""
    tokenizer, user = family.tokenizer(), {"role": "user", "content": "say it"}
    turns = [t for text in said for t in ({"role": "assistant", "content": text}, user)][:-1]
    answer = Completion(said[0], turns=tuple(turns) if len(said) > 1 else None)
    groups = Groups.of([Group(Prompt("a", "", (user,)), (answer,))])
    return tokenizer, encode_groups(groups, tokenizer, max_length=None).groups[0].completions[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ends_of_a_family(name: str):
    family = FAMILIES[name]
    tokenizer, answer = asked(family, "yes")
    named = tokenizer.convert_tokens_to_ids(list(family.named))
    found = tokenizer.convert_ids_to_tokens(sorted(end_tokens(tokenizer, named)))
    assert set(found) == {family.eos, *family.ends}
    assert tokenizer.convert_ids_to_tokens(int(answer.tokens[-1])) == family.last
    assert sum(int(t) in end_tokens(tokenizer, named) for t in answer.tokens) == 1
    assert "yes" in tokenizer.decode(answer.tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_earlier_answer_ends_as_the_last_one_or_is_refused(name: str):
    family = FAMILIES[name]
    if family.inner == "refused":
        with pytest.raises(ModelError, match="prefix-preserving"):
            asked(family, "yes", "no")
        return
    tokenizer, answer = asked(family, "yes", "no")
    trained = tokenizer.decode(answer.tokens[answer.mask]).replace(" ", "").replace("\n", "")
    inner = family.last if family.inner is None else family.inner
    assert trained == f"yes{inner}no{family.last}"


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_trained(name: str, whole: Path, tmp_path: Path):
    changes, words = REFUSED[name]
    with pytest.raises(ModelError, match=words):
        check_policy(changed(whole, tmp_path / "model", **changes))


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        ("generation_config.json", {"eos_token_id": [1, 999]}, "eos_token_id = \\[1, 999\\]"),
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id = </s>"),
        ("generation_config.json", {"eos_token_id": 1.5}, "eos_token_id = 1.5"),
        ("generation_config.json", {"eos_token_id": True}, "eos_token_id = True"),
        ("generation_config.json", {"pad_token_id": 376}, "pad_token_id = 376"),
        ("generation_config.json", {"eos_token_id": -1, "pad_token_id": -1}, ""),
        ("generation_config.json", {"eos_token_id": None}, ""),
        ("generation_config.json", {"eos_token_id": []}, ""),
        ("config.json", {"eos_token_id": None}, ""),
        ("config.json", {"eos_token_id": [1, 4]}, ""),
        ("config.json", {"eos_token_id": "</s>"}, "config.json names"),
    ],
)
def test_ends_that_settings_name(
    file: str, settings: dict[str, Any], words: str, whole: Path, tmp_path: Path, capsys
):
    """What is refused is so by every command, and what is not goes on to the plan."""
    source = changed(whole, tmp_path / "model")
    path = source / file
    kept = json.loads(path.read_text()) | settings
    path.unlink()
    path.write_text(json.dumps(kept))
    if words:
        with pytest.raises(ModelError, match=words):
            check_policy(source)
        if settings != {"eos_token_id": [1, 999]}:
            return  # every command calls the same check
        data = pairs(tmp_path / "data.jsonl")
        assert cli.main(["data", "check", str(data), "--model", str(source)]) == 2
        assert file in capsys.readouterr().err
        assert cli.main(["doctor", "--model", str(source)]) in (1, 2)
        return
    check_policy(source)


def test_ends_below_zero_are_none():
    class Settings:
        eos_token_id = (-1, 3, None)

    assert named_ends(Settings()) == (3,)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("labels", [ONE, LABELS], ids=["one", "two"])
def test_encoders_are_no_rewards(kind: str, labels: Any, whole: Path, tmp_path: Path):
    name = f"{ENCODERS[kind]}ForSequenceClassification"
    source = changed(whole, tmp_path / "model", architectures=[name], model_type=kind, **labels)
    with pytest.raises(ModelError, match="is an encoder" if labels is ONE else "2 labels"):
        check_reward(source)


@pytest.mark.parametrize("n", [0, 2, 3, 5])
@pytest.mark.parametrize("architecture", ["LlamaForSequenceClassification",
                                          "Qwen2ForSequenceClassification"])  # fmt: skip
def test_a_reward_has_one_label(n: int, architecture: str, whole: Path, tmp_path: Path):
    names = {str(k): f"LABEL_{k}" for k in range(n)}
    source = changed(whole, tmp_path / "model", architectures=[architecture], id2label=names)
    with pytest.raises(ModelError, match=f"{n} labels; a reward has one"):
        check_reward(source)


def test_rows_without_a_token_are_counted():
    tokenizer = FAMILIES["SmolLM2"].tokenizer()
    unknown = UnknownTokens(tokenizer)
    size = len(tokenizer)
    unknown.count_in(np.array([3, size - 1, size, size + 200], np.int32))
    unknown.count_in(np.array([], np.int32))
    assert (unknown.found, unknown.seen) == (2, 4)


def test_answers_of_a_longer_table_say_what_is_missing(tmp_path: Path):
    """A table of 100 rows over 41 tokens, never trained: most of what it draws has no name."""
    policy = Checkpoint(tiny.folder(tmp_path / "model", vocab_size=100), "base")
    rng, events = np.random.default_rng(0), Noted()
    asked = Groups.of(tiny.group(str(k), rng, 6, ()) for k in range(4))
    how = {"sampling": Sampling(max_tokens=8), "seed": Seed(0), "machine": Machine(device="cpu")}
    drawn = list(sample(policy, asked, n=2, events=events, **how))
    tokens = np.concatenate([c.tokens for g in drawn for c in g.completions])
    missing = int((tokens >= tiny.VOCABULARY).sum())
    assert missing > 0
    assert events.lines == [("cut-answers", None, 8), ("unknown-tokens", missing, len(tokens))]


class Noted(Silent):
    """Keeps what a stage logs of unknown tokens and cut answers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, Any, Any]] = []

    def log(self, kind: str, **more: Any) -> None:
        self.lines.append((kind, more.get("found"), more.get("drawn")))
