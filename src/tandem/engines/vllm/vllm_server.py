"""A vLLM server on this machine: started, asked for completions, given new weights, stopped.

The server runs in a Python of its own (`TANDEM_VLLM`, a path), since vLLM pins versions of torch
and transformers. It listens on 127.0.0.1 alone, behind a key that is drawn for it. New weights are
written to a file in memory or in the temporary folder, taken by a worker extension through vLLM's
`collective_rpc`, and the prefix cache of the old ones is emptied. Nothing is restarted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file
from torch import Tensor

from tandem.errors import EngineError

ARGUMENTS = "TANDEM_VLLM_ARGUMENTS"
"""More words for `vllm serve`; they stand last, so they decide."""
PYTHON = "TANDEM_VLLM"
"""Names the Python in whose environment vLLM is installed."""
START_SECONDS = 1800.0
"""A server that does not answer by then has failed: a large model is read and compiled first."""
ANSWER_SECONDS = 3600.0
FORGET_SECONDS = 60.0
"""The last request's blocks are freed a moment after its answer."""
EXTENSION, GUARD = "worker_extension", "guarded_server"
"""Files of this package that vLLM's Python runs, copied to where it finds nothing else of ours."""


class VllmServer:
    """A vLLM process over loopback.

    Args:
        folder: the model that it begins with, with its tokenizer.
        dtype: what it computes in.
        positions: the longest prompt and completion together.
        arguments: more of `vllm serve`'s own.

    Raises:
        EngineError: vLLM is not installed where `TANDEM_VLLM` says, or it does not start.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype, positions: int, arguments: Iterable[str] = ()
    ) -> None:
        self.python = find_python()
        self.home = Path(tempfile.mkdtemp(prefix="tandem-vllm-"))
        for name in (EXTENSION, GUARD):
            shutil.copy(Path(__file__).with_name(f"{name}.py"), self.home)
        self.log = self.home / "server.log"
        self.key, self.port = secrets.token_hex(16), _free_port()
        command = [
            *(str(self.python), str(self.home / f"{GUARD}.py")),
            *("--model", str(folder), "--served-model-name", "policy"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--dtype", str(dtype).removeprefix("torch.")),
            *("--max-model-len", str(positions)),
            *("--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"),
            *("--worker-extension-cls", f"{EXTENSION}.WeightFiles"),
            *("--middleware", f"{GUARD}.RequiredKey"),
            # compiling for a CPU takes minutes, and small models gain little
            *(() if torch.cuda.is_available() else ("--enforce-eager",)),
            *arguments,
            *shlex.split(os.environ.get(ARGUMENTS, "")),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment(), start_new_session=True
            )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=ANSWER_SECONDS,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._wait()

    def complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask for completions; return the choices, in the order of their index.

        Raises:
            EngineError: the server is gone, or refuses the request.
        """
        found = self._post("/v1/completions", {"model": "policy", **body})
        choices = found.get("choices")
        if not isinstance(choices, list):
            raise EngineError(
                f"vLLM answered without choices: {str(found)[:200]}",
                "an OpenAI-compatible server lists its completions there",
                "take a version of vLLM that docs/scaling.md names",
            )
        return sorted(choices, key=lambda choice: int(choice["index"]))

    def take_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Serve these weights from now on; no request may be on its way.

        Args:
            weights: all of them, named as in a checkpoint.
        """
        shared = Path("/dev/shm")
        folder = shared if shared.is_dir() and os.access(shared, os.W_OK) else self.home
        handle, name = tempfile.mkstemp(".safetensors", "tandem-weights-", folder)
        os.close(handle)
        path = Path(name)
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in weights}, path)
            self._post("/collective_rpc", {"method": "take_weight_file", "args": [str(path)]})
            self._forget_prompts()
        finally:
            path.unlink(missing_ok=True)

    def _forget_prompts(self) -> None:
        """Empty the prefix cache: its keys and values were computed with the old weights."""
        until = time.monotonic() + FORGET_SECONDS
        while self._post("/reset_prefix_cache", None).get("success") is not True:
            if time.monotonic() > until:
                raise EngineError(
                    "vLLM does not empty its prefix cache after new weights",
                    "keys and values of the old weights would be read with the new ones",
                    "take a version of vLLM that docs/scaling.md names, or leave machine.engine "
                    "out",
                )
            time.sleep(0.1)

    def close(self) -> None:
        """Stop the server and delete its folder."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 15)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, 9)
                self.process.wait()
        self.client.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """Pass on what vLLM may need; our own modules and our launcher's ranks are not for it."""
        launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK",
                    "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH")  # fmt: skip
        kept = {k: v for k, v in os.environ.items() if k not in launcher}
        on_cpu = {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several runs would all sit on the same core
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "TORCH_COMPILE_DISABLE": "1",  # else the first answer waits for a C++ compiler
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker in the engine's own process
        }
        return {
            **({} if torch.cuda.is_available() else on_cpu),
            **kept,
            "PYTHONPATH": str(self.home),
            "VLLM_API_KEY": self.key,
            "VLLM_SERVER_DEV_MODE": "1",  # serves collective_rpc; RequiredKey guards it
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/health", timeout=5.0).status_code == 200:
                    return
            time.sleep(0.3)
        said = self.log.read_text(errors="replace")[-2000:]
        self.close()
        raise EngineError(
            f"vLLM did not start: {_last_error(said)}",
            f"{self.python} was to serve the policy on 127.0.0.1",
            f"where it wants more memory than there is, export {ARGUMENTS}='--max-model-len 4096 "
            "--gpu-memory-utilization 0.4'; else see whether vLLM can be imported: "
            f"{self.python} -c 'import vllm'",
        )

    def _post(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            answer = self.client.post(path, json=body)
        except httpx.TransportError as error:
            raise EngineError(
                f"vLLM does not answer: {error or type(error).__name__}",
                f"its process {'has ended' if self.process.poll() is not None else 'still runs'}",
                "run the same command again: a fit goes on from its last state",
            ) from error
        if answer.status_code != 200:
            raise EngineError(
                f"vLLM refuses {path}: {answer.status_code} {answer.text[:300]}",
                "it takes prompts that fit its positions, and settings that it knows",
                "lower sampling.max_tokens or shorten the prompt, or leave machine.engine out",
            )
        return answer.json() if answer.content else {}


def find_python() -> Path:
    """Return the Python of vLLM's environment.

    Raises:
        EngineError: `TANDEM_VLLM` names none.
    """
    named = os.environ.get(PYTHON, "")
    path = Path(named)
    if not named or not path.is_file():
        raise EngineError(
            f"{PYTHON} = {named!r} names no Python",
            "vLLM runs as a server in an environment of its own, since it pins its versions",
            f"make one (python -m venv ENV; ENV/bin/pip install vllm) and set "
            f"{PYTHON}=ENV/bin/python",
        )
    return path


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _last_error(text: str) -> str:
    """Return the last line that names an error."""
    lines = [line.strip() for line in text.splitlines() if "Error" in line]
    return (lines or ["its log names no error"])[-1][-300:]
