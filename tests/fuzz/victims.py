"""python -m fuzz.victims: a process that has loaded torch, and forks a command for every order.

An order is a line of JSON: the words of a command, where its output goes, and when it is to be
killed: before its n-th operation on a file, or after some seconds. The answer is a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.utime")
WRITES = os.O_WRONLY | os.O_RDWR
PATIENCE = 900.0


@dataclass(frozen=True)
class Order:
    """A command, and when it is to be killed.

    Attributes:
        words: of the command line.
        log: file of its output.
        operation: kill it before this operation on a file, counted from 1; 0 for never.
        seconds: kill it after so many; 0 for never.
    """

    words: list[str]
    log: str
    operation: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code or -signal, operations on files, seconds."""

    code: int
    operations: int
    seconds: float


class Victims:
    """The process that forks commands, seen from outside."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.victims"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def do(self, order: Order) -> Ending:
        """Have a command done, or killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(order)) + "\n")
        self.process.stdin.flush()
        return Ending(**json.loads(self.process.stdout.readline()))


def fork_command(order: Order) -> Ending:
    """Do a command in a process of its own, and wait for its end."""
    read, write = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _do(order, write)
    os.close(write)
    limit = order.seconds or PATIENCE
    status: int | None = None
    while status is None:
        done, state = os.waitpid(pid, os.WNOHANG)
        if done:
            status = state
        elif time.monotonic() - begun > limit:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        else:
            time.sleep(0.002)
    counted = os.read(read, 64).decode()
    os.close(read)
    spent = time.monotonic() - begun
    return Ending(os.waitstatus_to_exitcode(status), int(counted or 0), round(spent, 4))


def _do(order: Order, write: int) -> None:
    """Become the command; never return."""
    code = 70
    try:
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        counter = itertools.count(1)
        seen = [0]

        def count(event: str, args: tuple[Any, ...]) -> None:
            if event in CHANGES or (
                event == "open" and isinstance(args[2], int) and args[2] & WRITES
            ):
                seen[0] = next(counter)
                if seen[0] == order.operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        from tandem import cli

        code = cli.main(order.words)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(write, str(seen[0]).encode())
    finally:
        os._exit(code)


def main() -> None:
    """Load what every command needs, then take orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    from tandem.methods import METHODS, load_method
    from tandem.pipeline import evaluate_result, run_method
    from tandem.tasks import load

    del evaluate_result, run_method, load  # they are loaded now
    torch.set_num_threads(1)
    for name in METHODS:
        load_method(name)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        Path(order.log).parent.mkdir(parents=True, exist_ok=True)
        answers.write(json.dumps(asdict(fork_command(order))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
