"""An adaptive KL coefficient."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tandem.errors import ConfigError

# --- the KL coefficient -------------------------------------------------------------------------


@dataclass
class AdaptiveBeta:
    """Ziegler's controller: beta moves so that KL(pi || pi_ref) stays near a target.

    e = clip(KL/target - 1, -0.2, 0.2); beta <- beta (1 + e n/horizon). arXiv:1909.08593,
    section 2.2. AlpacaFarm's k_beta is n/horizon.

    Attributes:
        beta: the coefficient now.
        target: nats a sequence.
        horizon: episodes over which beta can change by a fifth of itself.
    """

    beta: float
    target: float = 6.0
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(
                    f"`AdaptiveBeta` was given {name}={value}",
                    "beta changes by factors, towards a target, over a horizon: all are above 0",
                    f"set {name} above 0, or use a fixed beta",
                )

    def update(self, kl: float, n: int) -> float:
        """Return the new beta after n episodes whose mean KL a sequence was `kl`."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * n / self.horizon
        return self.beta

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take up where a run stopped."""
        self.beta = state["beta"]
