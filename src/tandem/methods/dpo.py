"""DPO and its relatives: the policy fitted to comparisons directly.

With h the log-ratio of policy to reference, summed over a completion's tokens (Rafailov et al.
2023, arXiv:2305.18290, algorithm in docs/theory/dpo.md#idea):

    1. pairs (x, y_w, y_l), labelled
    2. log pi_ref of both answers, once, frozen
    3. minimise  - log sigma(beta (h_w - h_l)),  or another row of `objectives.pairwise.PAIRWISE`

Where we depart from TRL's names and numbers, `objectives.pairwise` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.errors import ConfigError, nearest_name
from tandem.errors.ranges import Count, LabelNoise, NotNegative, Positive, check_ranges
from tandem.methods.reward import largest_margin, with_preferences, with_scaled_margins
from tandem.models.reference import reference_logprobs
from tandem.objectives.pairwise import PAIRWISE
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained, require_value, save_checkpoint
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource


@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO; defaults are AlpacaFarm's.

    >>> DPOConfig(loss="ipo", tau=0.1).settings
    {'tau': 0.1}
    >>> policy = recipe(run, pi_sft, D, DPOConfig(beta=0.1))  # doctest: +SKIP

    Attributes:
        loss: a row of `PAIRWISE`: sigmoid, cdpo, robust, ipo, ipo_sum, hinge_norm, hinge, ...
        beta: pull to the reference; None takes the loss's default.
        tau: IPO's regularisation, in beta's place.
        smoothing: cdpo's share of wrong labels.
        noise: robust's flip rate.
        bound: robust's beta d beyond which a pair pulls no more; 10 unless given.
        gamma: SimPO's target margin.
        margins: use the data's margins (sigmoid and hinges: ODPO), scaled so that the largest is
            1; left out by default, because DPO has none.
        epochs: passes over the comparisons.
        batch: prompts per optimiser step.
        optim: optimiser and schedule.
    """

    loss: str = "sigmoid"
    beta: Positive | None = None
    tau: Positive | None = None
    smoothing: LabelNoise | None = None
    noise: LabelNoise | None = None
    bound: Positive | None = None
    gamma: NotNegative | None = None
    margins: bool = False
    epochs: Count = 2
    batch: Count = 64
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-6))

    def __post_init__(self) -> None:
        check_ranges(self, "dpo")
        if self.loss not in PAIRWISE:
            raise ConfigError(
                f"dpo.loss = {self.loss!r}",
                f"the losses are {', '.join(PAIRWISE)}",
                f"choose one of them.{nearest_name(self.loss, PAIRWISE)}",
            )
        for given in self.settings:
            if given not in PAIRWISE[self.loss].settings:
                raise ConfigError(
                    f"dpo.{given} = {self.settings[given]} with dpo.loss = {self.loss!r}",
                    f"it takes {', '.join(PAIRWISE[self.loss].settings)}, and would ignore it",
                    "remove the setting, or choose a loss that has it",
                )
        if self.margins and not PAIRWISE[self.loss].takes_margins:
            having = ", ".join(name for name, row in PAIRWISE.items() if row.takes_margins)
            raise ConfigError(
                f"dpo.margins = true with dpo.loss = {self.loss!r}",
                "it regresses onto a fixed target, and a margin has no place in it",
                f"leave dpo.margins out, or choose one of {having}",
            )

    @property
    def settings(self) -> dict[str, float]:
        """The settings that were given, by name."""
        names = ("beta", "tau", "smoothing", "noise", "bound", "gamma")
        return {n: v for n in names if (v := getattr(self, n)) is not None}


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: DPOConfig = DPOConfig(),
    *,
    ref: Checkpoint | None = None,
    name: str = "DPO",
    ctx: StageContext,
) -> Checkpoint:
    """Fit a policy to the preferences of `data`.

        policy = run("dpo", dpo.fit, pi_sft, D, DPOConfig(loss="ipo", tau=0.1))

    Args:
        init: the policy to start from.
        data: tokenised groups; those without a preference are left out.
        cfg: the loss and its settings.
        ref: the frozen reference policy; `init` by default.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        DataError: no group has a preference, or margins are asked for and none has one.
    """
    loss_fn = PAIRWISE[cfg.loss]
    data = with_preferences(data)
    unit = largest_margin(data, "dpo", ctx.events) if cfg.margins else None
    if loss_fn.uses_ref:
        data = reference_logprobs(ref or init, data, ctx.machine, ctx.events)
    policy = open_trained(init, ctx)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        pairs = with_scaled_margins(require_value(batch.pairs), unit)
        return {cfg.loss: loss_fn(require_value(out.logp), batch.ref_logp, pairs, **cfg.settings)}

    batches = DatasetSource.of(
        data,
        policy,
        ctx,
        size=cfg.batch,
        epochs=cfg.epochs,
        logp_is="ref_logp" if loss_fn.uses_ref else None,
    )
    train(policy, batches, loss, cfg.optim, ctx)
    return save_checkpoint(policy, init, ctx, name)


def recipe(run: Run, pi_sft: Checkpoint, D: Groups, cfg: DPOConfig = DPOConfig()) -> Checkpoint:
    """Comparisons in, a policy out."""
    return run("dpo", fit, pi_sft, D, cfg)
