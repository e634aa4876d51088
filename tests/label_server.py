"""The real labelling server in a process of its own, for tests and benchmarks; loopback only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class LabelServer:
    """`tandem label ...` as somebody would start it.

    Args:
        words: the command after `tandem label`, without the port.
    """

    def __init__(self, *words: str, port: int = 0) -> None:
        self.words, self.port = words, port or free_port()
        self.process: subprocess.Popen[str] | None = None
        self.link = ""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, seconds: float = 90.0) -> None:
        command = [sys.executable, "-m", "tandem", "label", *self.words, "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("open"):
                self.link = line.split()[1]
            if line.startswith("stop"):
                break
        assert self.link, "".join(said)
        self.await_health(seconds)

    def await_health(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            address = f"{self.base}/health"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """As a power cut does to the process: no clean end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def served(*words: str) -> Generator[LabelServer]:
    server = LabelServer(*words)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def invite(folder: Path, name: str, database: str = "") -> str:
    """Return the path of an invitation, made as `tandem label users` makes it."""
    from tandem.labelling import people
    from tandem.labelling.setup import find_database

    found = find_database(folder, database)
    with found.write() as connection:
        token = people.make_invite(connection, people.add_person(connection, name))
    found.close()
    return f"/enter/{token}"
