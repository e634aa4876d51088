"""A chat template is a program that came with a model: its time and its memory are bounded.

A template that has not been seen before is first tried on short conversations in a child process
with limits of its own. Each rendering afterwards has a deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Generator
from functools import lru_cache
from threading import current_thread, main_thread
from typing import Any

from tandem.errors import ModelError

SECONDS = 10.0
"""One rendering, and the trial of a template."""
TRIAL_BYTES = 1 << 30
"""Memory that a trial may take beyond what the process has."""
LONGEST = 16 << 20
"""Characters that short conversations may become."""
TRIALS = (
    [("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi")],
    [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Thanks")],
)
FINE, TOO_LARGE = 0, 3
POLL_SECONDS = 0.005


def check_template(tokenizer: Any) -> None:
    """Try a tokenizer's chat template in a child process; once for each template.

    A template may refuse the short conversations: only what it costs is judged here.

    Raises:
        ModelError: it needs more than ten seconds, or more than a gigabyte.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template or not hasattr(os, "fork"):
        return
    problem = _trial_problem(str(template), _Hidden(tokenizer))
    if problem is not None:
        raise _beyond_limits(problem)


@contextlib.contextmanager
def rendering_deadline() -> Generator[None]:
    """Stop a rendering after ten seconds; only the main thread has a clock of this kind.

    Raises:
        ModelError: it was not done by then.
    """
    free = current_thread() is main_thread() and hasattr(signal, "setitimer")
    if not free or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise _beyond_limits(f"takes more than {SECONDS:g} s for one conversation")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


class _Hidden:
    """A tokenizer beside the key of a cache: equal to every other one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _trial_problem(template: str, hidden: _Hidden) -> str | None:
    """Return what is wrong with a template's cost, or None."""
    del template  # it is the key
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads: the child runs Python alone
        child = os.fork()
    if child == 0:
        os._exit(_trial(hidden.tokenizer))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(status)
            return None if ended == FINE else "needs more than 1 GiB for a short conversation"
        time.sleep(POLL_SECONDS)
    os.kill(child, signal.SIGKILL)
    _, _, used = os.wait4(child, 0)
    if used.ru_utime + used.ru_stime < SECONDS / 10:  # it waited: for a processor, or for a lock
        return None
    return f"takes more than {SECONDS:g} s for a short conversation"


def _trial(tokenizer: Any) -> int:
    """In the child: render under a limit of memory; return the exit code."""
    import resource

    try:
        with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123
            here = int(stream.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + TRIAL_BYTES, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        pass
    for turns in TRIALS:
        messages = [{"role": role, "content": text} for role, text in turns]
        for ask in (False, True):
            try:
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=ask
                )
                if len(text) > LONGEST:
                    return TOO_LARGE
            except MemoryError:
                return TOO_LARGE
            except BaseException:  # what it refuses is said where it is used
                continue
    return FINE


def _beyond_limits(problem: str) -> ModelError:
    return ModelError(
        f"the chat template {problem}",
        "it is a program that came with the model, and runs for every conversation",
        "mend tokenizer.chat_template, or the file chat_template.jinja beside the model",
    )
