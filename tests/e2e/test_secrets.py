"""A key and a password are in no file, no error and no page, whatever a server sends back."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tandem import cli
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models.openai import Server
from tandem.engines.language_models.retry import RetryPolicy
from tandem.errors import TandemError
from tandem.judges.llm import Labeller, Rater
from tandem.machine import Machine
from tandem.report import write_report
from tandem.rng import Seed
from tandem.runs.display import Lines
from tandem.runs.environment import hide_password
from tandem.runs.run import Run
from tandem.stages.judging import judge

KEY, PASSWORD = "sk-CANARY/0123+456=789", "urlpw-CANARY"
TEN_PAIRS = [
    Group(
        Prompt(f"p{k}", "", ({"role": "user", "content": f"say {k}"},)),
        (Completion(f"one {k}"), Completion(f"two {k}")),
    )
    for k in range(10)
]
pytest.importorskip("openai")


def spellings(secret: str) -> list[bytes]:
    """Return how a secret may be written down."""
    texts = [secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1]]
    encoded = [base64.b64encode(x.encode()).decode().rstrip("=") for x in (secret, f":{secret}")]
    return [text.encode() for text in (*texts, *encoded)]


def places_of_secrets(folder: Path) -> list[str]:
    """Name every file that holds a secret in one of its spellings."""
    wanted = [s for secret in (KEY, PASSWORD) for s in spellings(secret)]
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return [f.name for f in files if any(s in f.read_bytes() for s in wanted)]


class Echo(BaseHTTPRequestHandler):
    """Sends back everything that it is told, everywhere; every third time as a refusal."""

    count = 0

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        told = f"{self.headers['authorization']} {dict(self.headers)} {asked}"
        type(self).count += 1
        status = (200, 200, 400)[self.count % 3]
        top = [{"token": "(A", "logprob": -0.3}, {"token": f"(B {told}", "logprob": -2.0}]
        places = [{"token": "(A", "logprob": -0.3, "top_logprobs": top, "bytes": told}]
        choice = {
            "message": {"role": "assistant", "content": told, "refusal": told},
            "finish_reason": told,
            "logprobs": {"content": places},
        }
        body = {"id": told, "model": told, "choices": [choice], "error": {"message": told}}
        data = json.dumps(body).encode()
        self.send_response(status, str(self.headers["authorization"]))
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", str(self.headers["authorization"]))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnEcho", (Echo,), {}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(url: str, kept: Path) -> Server:
    patience = RetryPolicy(timeout=5, retries=1, first=0.01, longest=0.05)
    return Server("m", url, key="CANARY_KEY", patience=patience, kept=kept, concurrency=1)


def test_no_file_no_error_and_no_page_holds_a_key(
    echo: ThreadingHTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("CANARY_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(
        sys, "argv", ["tandem", f"--database=postgresql://me:{PASSWORD}@localhost/votes"]
    )
    lm = ask(f"http://127.0.0.1:{echo.server_address[1]}/v1", tmp_path / "answers.sqlite")
    said: list[str] = []
    with Run(tmp_path / "run", 0, display=Lines(sys.stderr)) as run:
        judged = run("labels", judge, Groups.of(TEN_PAIRS), Labeller(lm))
        asked, few = [g.prompt for g in TEN_PAIRS], Sampling(max_tokens=4)
        for stage in (
            lambda: run("ratings", judge, judged, Rater(lm)),
            lambda: list(lm.open(Machine()).complete(asked, few, Seed(0))),
        ):
            try:
                said.append(repr(stage()))
            except TandemError as error:
                said.append(str(error))
    assert any(g.preferences for g in judged)
    assert any(not g.preferences for g in judged)  # the refused ones are counted, and no labels
    page = write_report(tmp_path / "run")
    assert page.exists()
    printed = "".join((*said, *capfd.readouterr()))
    found = [s for secret in (KEY, PASSWORD) for s in spellings(secret) if s.decode() in printed]
    assert not found
    assert places_of_secrets(tmp_path) == []
    assert b"CANARY_KEY" not in b"".join(p.read_bytes() for p in tmp_path.rglob("run.toml"))


@pytest.mark.parametrize("scheme", ["https", "http", "ftp"])
def test_a_password_in_an_address_is_refused_and_not_repeated(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    url = f"{scheme}://me:{PASSWORD}@127.0.0.1:9/v1"
    words = ["run", "rlaif", "--task", "micro", "--rlaif.asking.model=m", "--out=r"]
    assert cli.main([*words, f"--rlaif.asking.server={url}"]) == 2
    assert PASSWORD not in "".join(capfd.readouterr())
    assert places_of_secrets(tmp_path) == []
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@127.0.0.1:1/votes",
        f"postgresql://me:x@{PASSWORD}@127.0.0.1:port/votes",
        f"mysql://me:{PASSWORD}@127.0.0.1/votes",
    ],
)
def test_a_database_that_cannot_be_opened_keeps_its_password(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    pytest.importorskip("sqlalchemy")
    assert cli.main(["label", "users", str(tmp_path), f"--database={url}"]) == 2
    said = capfd.readouterr().err
    assert PASSWORD not in said
    assert "Traceback" not in said
    assert "why:" in said


def test_only_passwords_are_hidden():
    for text in ("sqlite:////tmp/a:b@c", "http://host:80/v1", "a@b", "me@host:x"):
        assert hide_password(text) == text
    assert hide_password("x=http://u:p@q@host/v1 y") == "x=http://u:***@host/v1 y"


@pytest.mark.slow
def test_a_whole_run_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command line sends its key over https alone: a run and its page, against the echo."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
            str(certificate)]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("TlsEcho", (Echo,), {}))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    secret_free = {"SSL_CERT_FILE": str(certificate), "TANDEM_CACHE": str(tmp_path / "cache")}
    for name, value in {"OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1", **secret_free}.items():
        monkeypatch.setenv(name, value)
    small = "--sizes.demonstrations=24 --sizes.pairs=8 --sizes.held_out=6 --sizes.prompts=8"
    brief = "--sizes.evaluation=4 --sampling.max_tokens=8 --sft.epochs=1 --dpo.epochs=1"
    url = f"https://127.0.0.1:{server.server_address[1]}/v1"
    asking = f"--task=micro --rlaif.asking.server={url} --rlaif.asking.model=m --rlaif.pairs=6"
    words = f"{asking} --rlaif.learn=dpo {small} {brief} --reward.epochs=1".split()
    words = ["run", "rlaif", *words, f"--out={tmp_path / 'r'}"]
    ended = subprocess.run(
        [sys.executable, "-m", "tandem", *words], capture_output=True, check=False
    )
    assert b"Traceback" not in ended.stderr
    assert ended.returncode == 0, ended.stderr[-2000:]
    page = subprocess.run(
        [sys.executable, "-m", "tandem", "report", str(tmp_path / "r")],
        capture_output=True,
        check=True,
    )
    wanted = [s for secret in (KEY, PASSWORD) for s in spellings(secret)]
    assert not any(s in ended.stdout + ended.stderr + page.stdout for s in wanted)
    assert places_of_secrets(tmp_path) == []
    server.shutdown()
    server.server_close()
