"""A word from a stage that is at work and has nothing to report yet.

A step of a large model may take minutes, and so may the loading of its weights. While a stage
works, a thread looks every few seconds; where nothing was shown for long, it shows how long the
stage has been working, its memory, and how many tokens went through since the last look. Those
are counted here by whoever reads, trains or draws them: `count_tokens`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from tandem.runs.display import Display, spell_duration
from tandem.runs.environment import resident_bytes

LOOK_SECONDS = 2.0
"""Between two looks; a display decides whether anything is shown."""
TokenUse = Literal["read", "trained", "drawn"]
_TOKENS: Counter[str] = Counter()


def count_tokens(use: TokenUse, n: int) -> None:
    """Count tokens that went through a model; cheap, called once a forward pass."""
    _TOKENS[use] += n


class Heartbeat:
    """Speaks for a stage while it works; use as a context.

    Args:
        display: who shows it.
        stage: the stage's name.
        clock: seconds, for speeds and durations.
    """

    def __init__(
        self, display: Display, stage: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.display, self.stage, self.clock = display, stage, clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tandem-heartbeat", daemon=True)
        self._began = self._looked = clock()
        self._seen = Counter(_TOKENS)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.display.beat(self.stage, self.describe)

    def describe(self) -> str:
        """Return what is known of the work since this was last asked."""
        now, seen = self.clock(), Counter(_TOKENS)
        spent, new = max(now - self._looked, 1e-9), seen - self._seen
        self._looked, self._seen = now, seen
        parts = [f"at work for {spell_duration(now - self._began)}"]
        parts += [f"{n:,} tokens {use}, {n / spent:,.0f} a second" for use, n in new.items()]
        if (held := resident_bytes()) is not None:
            parts.append(f"{held / 2**30:.2f} GiB")
        return "  ".join(parts)
