"""Flags, commands and methods of other trainers: the error says what to write here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tandem import cli
from tandem.cli.other_names import COMMANDS, ELSEWHERE, FLAGS, NEAREST_METHODS
from tandem.cli.run import default_configs, make_run_parser
from tandem.cli.settings import with_parsed_values
from tandem.methods import METHODS, load_method
from tandem.methods.grpo import GRPO_VARIANTS


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err


def test_every_flag_of_ours_that_is_named_is_one():
    known: set[str] = set()
    for name in ("sft", "dpo", "kto", "grpo"):
        parser = make_run_parser(name, default_configs(load_method(name)))
        options = {o for a in parser._actions for o in a.option_strings}
        known |= {option.replace(f"--{name}.", "--METHOD.") for option in options}
    for theirs, ours in FLAGS.items():
        named = [re.split(r" |\.(?:rank|alpha|targets)", flag)[0] for flag in ours]
        assert any(flag in known for flag in named), theirs
    for words in [*NEAREST_METHODS.values()]:
        method = words.split()[0]
        parser = make_run_parser(method, default_configs(load_method(method)))
        options = {o for a in parser._actions for o in a.option_strings}
        assert set(re.findall(r"--[\w.]+", words)) <= options


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("sft", "--model", "m"), "tandem run sft"),
        (("trl", "dpo", "--model", "m"), "tandem run dpo"),
        (("train", "rloo"), "tandem run grpo --grpo.advantage rest"),
        (("env",), "tandem doctor"),
        (("push", "runs/mine"), "tandem export"),
        (("run", "rloo"), "tandem run grpo --grpo.advantage rest"),
        (("run", "gspo"), "tandem run grpo --grpo.ratio sequence"),
        (("run", "dpo", "--dataset", "d"), "write --data"),
        (("run", "dpo", "--model_name_or_path", "m"), "write --model"),
        (("run", "dpo", "--learning_rate", "1"), "write --dpo.optim.lr"),
        (("run", "dpo", "--beta", "1"), "write --dpo.beta"),
        (("run", "dpo", "--use_peft"), "write --machine.lora.rank 16"),
        (("run", "dpo", "--load-in-4bit"), "write --machine.quantise nf4"),
        (("run", "sft", "--push_to_hub"), "hf upload"),
        (("run", "grpo", "--num_generations", "8"), "write --grpo.n"),
        (("run", "grpo", "--max_steps", "8"), "write --grpo.rounds"),
        (("run", "grpo", "--reward_funcs", "f"), "grpo_with_your_reward.py"),
        (("chat", "--model_name_or_path", "m"), "without a flag"),
        (("run", "dpo", "--dpo.bta", "1"), "Did you mean `dpo.beta`"),
    ],
)
def test_an_error_names_ours(words: tuple[str, ...], advice: str, capsys):
    assert advice in said(capsys, *words)


def test_nothing_of_ours_is_hidden():
    """A name that is ours is never explained as another trainer's."""
    assert not {*COMMANDS, *NEAREST_METHODS} & {*METHODS, *cli.COMMANDS}
    assert not {*FLAGS} & {*ELSEWHERE}


@pytest.mark.parametrize(
    ("method", "advice"),
    [("grpo", "examples/grpo_with_your_reward.py"), ("sft", "give data with answers"),
     ("dpo", "give data with `chosen` and `rejected`"), ("rlaif --rlaif.learn dpo", ""),
     ("direct", "#### 42"), ("star", "tandem run star --task micro-arithmetic"),
     ("lmsi", "or add --eval_data FILE")],
)  # fmt: skip
def test_prompts_alone(method: str, advice: str, tmp_path: Path, capsys):
    """What GRPO is trained on elsewhere: prompts, and a column for a reward in Python."""
    rows = [{"prompt": f"What is {k} and 2?", "solution": str(k + 2)} for k in range(20)]
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = Path(cli.__file__).parents[1] / "tasks" / "micro" / "assets" / "base"
    words = ["run", *method.split(), "--model", str(base), "--data", str(data), "--dry_run",
             "--sampling.max_tokens", "32", "--start", "model"]  # fmt: skip
    assert cli.main(words) == (2 if advice else 0)
    assert advice in capsys.readouterr().err
    if method == "lmsi":  # what the error advises is done as it stands
        keyed = [{"question": f"{k} and 2?", "answer": f"#### {k + 2}"} for k in range(50, 60)]
        test = tmp_path / "test.jsonl"
        test.write_text("".join(json.dumps(row) + "\n" for row in keyed))
        assert cli.main([*words, "--eval_data", str(test)]) == 0


@pytest.mark.parametrize("name", ["rloo", "dapo", "gspo", "dr_grpo"])
def test_the_flags_of_a_variant_are_its_paper_s_settings(name: str):
    """Nothing is left out: with a flag forgotten it would be another method."""
    words = NEAREST_METHODS[name].split()[1:]
    configs = default_configs(load_method("grpo"))
    options = make_run_parser("grpo", configs).parse_args(["--task=micro", *words])
    given = with_parsed_values(configs["grpo"], options["grpo"], "grpo")
    wanted = GRPO_VARIANTS[name.replace("_", "-")]
    assert given == wanted


def test_a_flag_that_counts_something_else_says_what(capsys):
    told = said(capsys, "run", "dpo", "--per_device_train_batch_size", "4")
    assert "write --dpo.batch (prompts of one optimiser step" in told
