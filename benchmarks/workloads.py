"""What the benchmarks run on: random Llamas, and rows whose lengths are drawn or recorded.

    python benchmarks/workloads.py --record FILE    make hh_lengths.json again from HH transcripts

W-pair   15.2 M parameters (6 layers, width 288, FFN 768, 6 heads, vocabulary 32,000, tied);
         prompts of 150-350 and answers of 20-60 tokens, uniform; 8 records a step
W-hh     the same model on the lengths of Anthropic's HH (harmless, test): `hh_lengths.json`, words
         and signs of 512 prompts with their two answers, cut at 900 tokens by choice of rows
W-big    100 M parameters (11 layers, width 512, vocabulary 128,000, tied), rows of W-pair; 40
         records a step, which are more than 8,192 unique tokens, in micro-batches of 4,096
W-micro  a model of the micro world's shape (.8 M parameters, vocabulary 600); prompts of 20-60 and
         answers of 10-30 tokens; 32 records a step
W-tiny   to see that a benchmark runs, on a machine that is too busy to measure on

Rows of W-pair, W-hh and W-micro are read twice, the second time in steps that begin elsewhere:
their shapes are new, the process's memory is not. Steps of the first time are not timed
(`meters.Meter`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTHS = Path(__file__).with_name("hh_lengths.json")
LONGEST = 900


@dataclass(frozen=True)
class Shape:
    """A Llama, tied."""

    vocabulary: int = 32_000
    width: int = 288
    ffn: int = 768
    layers: int = 6
    heads: int = 6

    @property
    def body(self) -> int:
        """Parameters of the layers' matrices, which every token is multiplied with."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.ffn)

    @property
    def parameters(self) -> int:
        """All matrices, the embedding once."""
        return self.body + self.vocabulary * self.width


@dataclass(frozen=True)
class Workload:
    """A model, rows, and how many of them a step holds.

    Attributes:
        given: a file of rows in JSON lines, instead of drawn ones.
        lora: rank of the adapters that are trained; 0 trains all weights.
    """

    name: str
    shape: Shape
    records: int = 64
    size: int = 8
    max_length: int = 512
    tokens: int = 16_384
    prompt: tuple[int, int] = (150, 350)
    answer: tuple[int, int] = (20, 60)
    recorded: bool = False
    passes: int = 1
    given: str = ""
    lora: int = 0

    @property
    def steps(self) -> int:
        return self.passes * self.records // self.size

    def rows(self) -> list[dict[str, Any]]:
        """Draw the records, the same ones every time; a pass begins half a step after the last."""
        first = self._given() if self.given else self._drawn()
        shifts = (k * self.size // 2 for k in range(self.passes))
        return [row for k in shifts for row in first[k:] + first[:k]]

    def _given(self) -> list[dict[str, Any]]:
        lines = Path(self.given).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _drawn(self) -> list[dict[str, Any]]:
        rng = random.Random(0)
        lengths = _recorded(rng) if self.recorded else None

        def words(count: int) -> str:
            return " ".join(f"w{rng.randint(4, self.shape.vocabulary - 1)}" for _ in range(count))

        def one(k: int) -> dict[str, str]:
            p, c, r = lengths[k] if lengths else (
                rng.randint(*self.prompt), rng.randint(*self.answer), rng.randint(*self.answer)
            )  # fmt: skip
            return {"prompt": words(p) + " ", "chosen": words(c), "rejected": words(r)}

        return [one(k) for k in range(self.records)]


BIG = Shape(vocabulary=128_000, width=512, ffn=1376, layers=11, heads=8)
MICRO = Shape(vocabulary=600, width=128, ffn=320, layers=4, heads=4)
TINY = Shape(vocabulary=500, width=32, ffn=64, layers=2, heads=2)
WORKLOADS = {
    "W-pair": Workload("W-pair", Shape(), passes=2),
    "W-hh": Workload("W-hh", Shape(), max_length=1024, recorded=True, passes=2),
    "W-big": Workload("W-big", BIG, records=240, size=40, tokens=4096),
    "W-micro": Workload(
        "W-micro", MICRO, records=640, size=32, prompt=(20, 60), answer=(10, 30), passes=2
    ),
    "W-tiny": Workload("W-tiny", TINY, records=8, size=4, prompt=(20, 40), answer=(5, 10)),
    "W-big-quick": Workload("W-big", BIG, records=12, size=2),
}


def _recorded(rng: random.Random) -> list[tuple[int, int, int]]:
    triples = [tuple(t) for t in json.loads(LENGTHS.read_text(encoding="utf-8"))]
    rng.shuffle(triples)
    return triples  # type: ignore[return-value]


def word_tokenizer(vocabulary: int) -> Any:
    """Return a word-level tokenizer: token k is the word wk."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(4, vocabulary)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", **special)


def make_model(folder: Path, shape: Shape) -> Path:
    """Write the random Llama and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    word_tokenizer(shape.vocabulary).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def share_even(texts: list[str]) -> list[float]:
    """The share of even words in each text: the reward of the online benchmarks, about 1/2."""
    numbers = [[int(w[1:]) for w in text.split() if w[1:].isdigit()] for text in texts]
    return [sum(k % 2 == 0 for k in ks) / max(1, len(ks)) for ks in numbers]


def record(file: Path) -> None:
    """Count words and signs of 512 comparisons of HH transcripts."""
    from tandem.data.formats import read_data

    count = lambda text: max(1, len(re.findall(r"\w+|[^\w\s]", text)))  # noqa: E731
    found = []
    for group in read_data(file).groups:
        asked = group.prompt.messages or ({"content": group.prompt.text},)
        prompt = sum(count(str(m["content"])) + 3 for m in asked)
        answers = [count(c.text) for c in group.completions]
        if len(answers) == 2 and prompt + max(answers) <= LONGEST:
            found.append([prompt, *answers])
    random.Random(0).shuffle(found)
    LENGTHS.write_text(json.dumps(found[:512]) + "\n", encoding="utf-8")
    print(
        f"{LENGTHS}: 512 of {len(found)} rows, {sum(map(sum, found[:512])) / 512:.0f} tokens a row"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", type=Path, required=True)
    record(parser.parse_args().record)
