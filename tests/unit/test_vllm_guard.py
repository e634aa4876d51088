"""What stands around a vLLM server, tested without one: its key, and settings it would bend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tandem.engines import Sampling
from tandem.engines.vllm.guarded_server import KEY, RequiredKey
from tandem.engines.vllm.vllm_engine import check_sampling
from tandem.errors import ConfigError

OPEN, WRONG = (b"authorization", b"Bearer k1"), (b"authorization", b"Bearer k2")


def _asked(monkeypatch: pytest.MonkeyPatch, kind: str, headers: list[Any]) -> tuple[list[str], Any]:
    """Return what reached the application, and what was sent back."""
    reached, sent = list[str](), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setenv(KEY, "k1")
    scope = {"type": kind, "path": "/collective_rpc", "method": "POST", "headers": headers}
    asyncio.run(RequiredKey(app)(scope, None, send))
    return reached, sent


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_who_has_the_key_comes_through(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    headers = [] if kind == "lifespan" else [(b"host", b"x"), OPEN]
    assert _asked(monkeypatch, kind, headers) == ([kind], [])


@pytest.mark.parametrize(
    "headers", [[], [WRONG], [(b"host", b"x")]], ids=["none", "wrong", "other"]
)
def test_who_has_not_is_refused_on_every_route(
    monkeypatch: pytest.MonkeyPatch, headers: list[Any]
) -> None:
    reached, sent = _asked(monkeypatch, "http", headers)
    assert not reached
    assert sent[0]["status"] == 401
    reached, sent = _asked(monkeypatch, "websocket", headers)
    assert not reached
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "sampling", [Sampling(top_p=0.9, min_p=0.1), Sampling(temperature=0.005)], ids=str
)
def test_a_law_that_would_be_another_is_refused(sampling: Sampling) -> None:
    with pytest.raises(ConfigError, match="for vLLM"):
        check_sampling(sampling)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0), Sampling(top_k=5, top_p=0.9), Sampling(min_p=0.1)],
    ids=str,
)
def test_a_law_that_is_the_same_is_not(sampling: Sampling) -> None:
    check_sampling(sampling)
