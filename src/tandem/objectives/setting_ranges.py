"""Checks of settings that losses share: positive, below one half."""

from __future__ import annotations

from tandem.errors import ConfigError


def check_positive(loss: str, **settings: float) -> None:
    """Refuse settings that are not above 0.

    Raises:
        ConfigError: naming the loss, the setting and its value.
    """
    for name, value in settings.items():
        if not value > 0:
            raise ConfigError(
                f"`{loss}` was given {name}={value}",
                "at 0 the loss is flat and below 0 it prefers the rejected answer",
                f"set {name} above 0",
            )


def check_below_half(loss: str, **settings: float) -> None:
    """Refuse label noise or smoothing outside [0, 1/2).

    Raises:
        ConfigError: naming the loss, the setting and its value.
    """
    for name, value in settings.items():
        if not 0 <= value < 0.5:
            raise ConfigError(
                f"`{loss}` was given {name}={value}",
                "half of the labels wrong is no information, and more of them reverses every label",
                f"set {name} in [0, 0.5), for example 0.1",
            )
