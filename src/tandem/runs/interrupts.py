"""Ctrl-C that is not lost: what a library swallows is raised again at the next safe place.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a callback of the
garbage collector or of the import system, and inside a library's bare `except`, it is dropped. So
the signal is also remembered, and a run looks for it between stages and at each step's progress.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_waiting = threading.Event()


def remember_interrupts() -> None:
    """Remember each Ctrl-C from now on, beside raising it; a program's first step.

    A process that ignores the signal, or has a handler of its own, is left as it is.
    """
    _waiting.clear()
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)


def raise_if_interrupted() -> None:
    """Raise the interrupt that was heard and has not ended anything yet; cheap, once each.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if _waiting.is_set() and threading.current_thread() is threading.main_thread():
        _waiting.clear()
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _waiting.set()
    signal.default_int_handler(number, frame)
