"""Preference model of two arguments: P(y > y' | x), fitted to comparisons; no reward behind it.

One sequence (x, y, y') and one logit s at its end; both orders are read in one pack, and

    P(y > y' | x) = sigma((s(x, y, y') - s(x, y', y)) / 2)

so that P(y > y') + P(y' > y) = 1 whatever the weights are
(docs/theory/reward_models.md#preference-models-of-two-arguments; SLiC-HF's and RSO's ranker,
arXiv:2309.06657 section 3.1, and NLHF's, arXiv:2312.00886 section 3). It can hold that a beats b, b
beats c and c beats a, which no reward can. The papers' rankers decode a letter and flip the order
at random; antisymmetry by construction needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.pair_sequences import PairSeparator, judged_in_both_orders, longest_sequence
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.errors.ranges import Count, LabelNoise, check_ranges
from tandem.methods.reward import with_preferences
from tandem.models import loading
from tandem.models.folders import context_length
from tandem.models.tokenise import TOKENIZER_KEY
from tandem.models.tokenizers import load_tokenizer
from tandem.objectives.reward import antisymmetric, two_argument
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.training.fitting import open_trained_scalar, require_value, save_checkpoint
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource


@dataclass(frozen=True)
class PreferenceConfig:
    """Settings of a preference model; defaults are the reward model's, to be compared with it.

    >>> PreferenceConfig(head="zero", smoothing=0.1).head
    'zero'

    Attributes:
        epochs: passes over the comparisons; more than one overfits.
        batch: prompts per optimiser step.
        smoothing: share of labels taken to be wrong, pulls them towards 1/2.
        head: draw the new head from N(0, 1/(d + 1)), or start it at `zero`, which is steadier on
            a few hundred comparisons.
        layers: keep only the first layers of the initial model; None keeps all.
        optim: optimiser and schedule.
    """

    epochs: Count = 1
    batch: Count = 16
    smoothing: LabelNoise = 0.0
    head: Literal["normal", "zero"] = "normal"
    layers: Count | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))

    def __post_init__(self) -> None:
        check_ranges(self, "preference")


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: PreferenceConfig = PreferenceConfig(),
    *,
    name: str = "preference",
    ctx: StageContext,
) -> Checkpoint:
    """Fit P(y > y' | x) to the preferences of `data`, from the policy `init` and a fresh head.

    Soft labels are honoured, margins are not read. Pairs that do not fit into the model's context
    as one sequence are left out and counted in the run's events.

    Raises:
        DataError: no group has a preference, none fits, or the tokens are another tokenizer's.
    """
    pairs = Groups.of(_readable(with_preferences(data), init, ctx.events))
    model = open_trained_scalar(init, ctx, zero=cfg.head == "zero", layers=cfg.layers)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        score, both = require_value(out.score), require_value(batch.pairs)
        soft = (1 - 2 * cfg.smoothing) * both.p + cfg.smoothing
        return {"two_argument": two_argument(antisymmetric(score[both.w], score[both.l]), soft)}

    batches = DatasetSource.of(pairs, model, ctx, size=cfg.batch, epochs=cfg.epochs)
    train(model, batches, loss, cfg.optim, ctx)
    model.inner.config.tandem = {"reads": loading.PAIR}
    return save_checkpoint(model, init, ctx, name)


def _readable(data: Groups, init: Checkpoint, events: Events) -> Iterator[Group]:
    """Yield the judged pairs as ordered sequences, those that fit into the context."""
    tokenizer, limit = load_tokenizer(init.path), context_length(init.path)
    seam, whose = PairSeparator.of(tokenizer), tokenizer_hash(tokenizer)
    total = lost = 0
    for group in data:
        _same_tokens(group, whose, init)
        fits = [
            v
            for v in group.preferences
            if longest_sequence(judged_in_both_orders(replace(group, preferences=(v,)), seam))
            <= limit
        ]
        total, lost = total + len(group.preferences), lost + len(group.preferences) - len(fits)
        if fits:
            yield judged_in_both_orders(replace(group, preferences=tuple(fits)), seam)
    if lost:
        why = f"prompt and both answers are longer than {limit} tokens"
        events.log("encoded", text=f"dropped {lost} of {total} pairs: {why}")
    if lost == total:
        raise DataError(
            f"none of {total} pairs fits into {limit} tokens",
            "a preference model reads the prompt and both answers as one sequence",
            "encode with a smaller max_length, or start from a model with a longer context",
        )


def _same_tokens(group: Group, whose: str, init: Checkpoint) -> None:
    if group.prompt.meta.get(TOKENIZER_KEY, whose) != whose:
        raise DataError(
            f"group `{group.id}` holds the tokens of another tokenizer than that of {init}",
            "read through foreign ids, its answers would be other answers",
            "encode the preferences with `tandem.encode` and the model that you start from",
        )


def recipe(
    run: Run, pi_sft: Checkpoint, D: Groups, cfg: PreferenceConfig = PreferenceConfig()
) -> Checkpoint:
    """Comparisons in, a preference model out."""
    return run("preference", fit, pi_sft, D, cfg)
