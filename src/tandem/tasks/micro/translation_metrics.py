"""BLEU and chrF of translations against their references, by sacrebleu.

Neither is a reward here. They stand beside the truth, which accepts every right translation, where
the reference is one of several: the one with the first word for every verb.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

from tandem.data.record import Group
from tandem.errors import ConfigError
from tandem.tasks.micro.translation import ideal_translation


def score_translations(groups: Iterable[Group]) -> dict[str, float]:
    """Return the corpus BLEU and chrF of all completions, from 0 to 100.

    Args:
        groups: translations of the task's own prompts.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    metrics = _sacrebleu()
    pairs = [(c.text, ideal_translation(g.prompt.meta)) for g in groups for c in g.completions]
    said, references = [text for text, _ in pairs], [[reference for _, reference in pairs]]
    return {
        "BLEU": float(metrics.corpus_bleu(said, references, tokenize="none", force=True).score),
        "chrF": float(metrics.corpus_chrf(said, references).score),
    }


def translation_tallies() -> dict[str, Callable[[Group], float]]:
    """Return sentence BLEU and chrF by column, means over a group; none without sacrebleu."""
    if importlib.util.find_spec("sacrebleu") is None:
        return {}
    return {"BLEU": _sentence_bleu, "chrF": _sentence_chrf}


def _sentence_bleu(group: Group) -> float:
    reference, metrics = [ideal_translation(group.prompt.meta)], _sacrebleu()
    scores = [
        metrics.sentence_bleu(c.text, reference, tokenize="none").score for c in group.completions
    ]
    return float(sum(scores) / len(scores))


def _sentence_chrf(group: Group) -> float:
    reference, metrics = [ideal_translation(group.prompt.meta)], _sacrebleu()
    scores = [metrics.sentence_chrf(c.text, reference).score for c in group.completions]
    return float(sum(scores) / len(scores))


def _sacrebleu() -> Any:
    if importlib.util.find_spec("sacrebleu") is None:
        raise ConfigError(
            "BLEU and chrF without sacrebleu",
            "they are computed by the library that papers report them with",
            "pip install 'tandem-rlhf[translation]', or pip install sacrebleu",
        )
    import sacrebleu  # type: ignore[reportMissingImports]

    return sacrebleu
