"""Many annotators at once, a server that is killed, a database that is restarted: is a vote lost?

    python benchmarks/labelling_load.py --people 100 --minutes 30 --kills 20
    python benchmarks/labelling_load.py --minutes 30 --kills 20 --postgresql --restarts 3

Every annotator does what a browser does: enters by an invitation, loads style and script, reads,
thinks, votes with the key that the page holds, keeps the lease alive, sometimes takes a vote back,
changes one or skips; and after an error sends the same key again. Everything is on loopback.

Afterwards the database is compared with what was acknowledged: no acknowledged vote is missing,
none counts twice, and no item has more votes than its overlap and its live leases allow. Exit code
1 if any of that does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from label_server import LabelServer
from postgres import ABSENT, Postgres, is_there
from tandem.labelling import people
from tandem.labelling.setup import find_database

TOKEN = re.compile(r'data-token="([^"]+)"')
KEY = re.compile(r'name="key" value="([^"]+)"')
CSRF = re.compile(r'name="_csrf_token" value="([^"]+)"')
ASSETS = re.compile(r'(?:href|src)="(/assets/[^"]+)"')
RETRY = (502, 503, 429)
KEEP_EVERY = 60.0


@dataclass
class Seen:
    """What the annotators saw."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    retried: int = 0
    refused: collections.Counter[int] = field(default_factory=collections.Counter)
    finished: int = 0


class Annotator:
    """One person with a browser."""

    def __init__(self, base: str, link: str, think: float, seen: Seen, seed: int) -> None:
        self.client = httpx.AsyncClient(base_url=base, timeout=20, follow_redirects=True)
        self.link, self.think, self.seen = link, think, seen
        self.random = random.Random(seed)
        self.page, self.kept, self.before = "", time.monotonic(), ""

    async def work(self, end: float) -> None:
        async with self.client:
            await self._enter()
            while time.monotonic() < end:
                found = TOKEN.search(self.page)
                if found is None:
                    self.seen.finished += 1
                    return
                await self._read()
                await self._act(found[1])

    async def _enter(self) -> None:
        page = await self._send("GET", self.link)
        for address in ASSETS.findall(page):
            await self._send("GET", address)
        if found := CSRF.search(page):
            await self._send("POST", f"{self.link}/begin", {"_csrf_token": found[1]})
        self.page = await self._send("GET", "/label")
        for address in ASSETS.findall(self.page):
            await self._send("GET", address)

    async def _read(self) -> None:
        await asyncio.sleep(min(self.random.expovariate(1 / self.think), 5 * self.think))
        if time.monotonic() - self.kept > KEEP_EVERY and (token := TOKEN.search(self.page)):
            self.kept = time.monotonic()
            await self._form(f"/label/{token[1]}/keep", {})

    async def _act(self, token: str) -> None:
        luck = self.random.random()
        if luck < 0.03:
            key = KEY.findall(self.page)[0] + "s"
            await self._judge(f"/label/{token}/skip", {"key": key, "reason": "unclear"}, "skip")
        elif luck < 0.07 and self.before:
            key = self.random.randbytes(16).hex()
            await self._judge("/undo", {"key": key}, "undo")
            self.before = ""
        elif luck < 0.10 and self.before:
            self.page = await self._send("GET", f"/label/{self.before}")
            if (again := TOKEN.search(self.page)) is not None:
                await self._vote(again[1])
        else:
            await self._vote(token)
            self.before = token

    async def _vote(self, token: str) -> None:
        values = {
            "key": KEY.findall(self.page)[0],
            "choice": str(self.random.randint(1, 7)),
            "seconds": f"{self.think:.1f}",
            "device": "desktop",
        }
        await self._judge(f"/label/{token}/vote", values, "vote")

    async def _judge(self, path: str, values: dict[str, str], kind: str) -> None:
        self.page, status = await self._form(path, values, timed=kind == "vote")
        if status == 200:
            self.seen.acknowledged[values["key"]] = kind
        else:
            self.page = await self._send("GET", "/label")

    async def _form(
        self, path: str, values: dict[str, str], timed: bool = False
    ) -> tuple[str, int]:
        found = CSRF.search(self.page)
        data = {"_csrf_token": found[1] if found else "", **values}
        text = await self._send("POST", path, data, timed)
        return text, self.status

    async def _send(
        self, method: str, path: str, data: dict[str, str] | None = None, timed: bool = False
    ) -> str:
        """Send until it is answered; a form is sent again with the same key."""
        headers = {"HX-Request": "true"} if data is not None and "key" in data else {}
        for attempt in range(200):
            start = time.perf_counter()
            try:
                answer = await self.client.request(method, path, data=data, headers=headers)
            except httpx.TransportError:
                self.seen.retried += 1
            else:
                self.status = answer.status_code
                if answer.status_code not in RETRY:
                    if timed and answer.status_code == 200:
                        self.seen.latencies.append(time.perf_counter() - start)
                    if answer.status_code >= 400:
                        self.seen.refused[answer.status_code] += 1
                    return answer.text
                self.seen.retried += 1
            await asyncio.sleep(min(0.25 * 1.3**attempt, 3) * (0.5 + self.random.random()))
        raise RuntimeError(f"{method} {path}: no answer after 200 tries")


async def run_load(
    server: LabelServer, links: list[str], options: Any, postgres: Postgres | None
) -> Seen:
    """Let everybody label until the time is over, while things break."""
    seen, end = Seen(), time.monotonic() + options.minutes * 60
    persons = [Annotator(server.base, link, options.think, seen, k) for k, link in enumerate(links)]
    breaks = asyncio.create_task(break_things(server, options, postgres))
    await asyncio.gather(*(p.work(end) for p in persons))
    await breaks
    return seen


async def break_things(server: LabelServer, options: Any, postgres: Postgres | None) -> None:
    """Kill the server and restart the database at random moments inside the run."""
    draw = random.Random(options.seed)
    seconds = options.minutes * 60
    kinds = ["kill"] * options.kills + ["restart"] * (options.restarts if postgres else 0)
    draw.shuffle(kinds)
    start = time.monotonic()
    for k, kind in enumerate(kinds):
        moment = (k + 0.3 + 0.4 * draw.random()) * 0.9 * seconds / len(kinds) + 0.05 * seconds
        await asyncio.sleep(max(0.0, start + moment - time.monotonic()))
        if kind == "kill":
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        elif postgres is not None:
            await asyncio.to_thread(postgres.restart, draw.choice(("fast", "immediate")))


def check_votes(folder: Path, url: str, seen: Seen) -> dict[str, Any]:
    """Compare the database with what was acknowledged."""
    database = find_database(folder, url)
    with database.read() as connection:
        rows = connection.execute(
            sa.text("SELECT id, key, kind, person_id, item_id, supersedes, protocol FROM event")
        ).all()
        items = connection.execute(sa.text("SELECT id, votes, wanted FROM item")).all()
        live = collections.Counter(
            connection.execute(
                sa.text("SELECT item_id FROM lease WHERE closed_at IS NULL AND expires_at > :now"),
                {"now": time.time()},
            ).scalars()
        )
    database.close()
    keys = collections.Counter(r.key for r in rows)
    replaced = {r.supersedes for r in rows if r.supersedes is not None}
    current = [r for r in rows if r.id not in replaced and r.kind == "vote"]
    per_pair = collections.Counter((r.person_id, r.item_id) for r in current)
    per_item = collections.Counter(r.item_id for r in current)
    return {
        "events": len(rows),
        "current_votes": len(current),
        "acknowledged": len(seen.acknowledged),
        "lost": sum(key not in keys for key in seen.acknowledged),
        "doubled": sum(n > 1 for n in keys.values()) + sum(n > 1 for n in per_pair.values()),
        "over_overlap": sum(per_item[i.id] > i.wanted + live[i.id] for i in items),
        "largest_over": max((per_item[i.id] - i.wanted for i in items), default=0),
        "wrong_counts": sum(per_item[i.id] != i.votes for i in items),
        "late": sum(r.kind == "late" for r in rows),
    }


def measure(options: Any) -> dict[str, Any]:
    """Set everything up, run the load, and return what was found."""
    folder = Path(tempfile.mkdtemp(prefix="label-load-"))
    postgres = Postgres() if options.postgresql else None
    url = postgres.new_database() if postgres else ""
    votes = options.people * options.minutes * 60 / options.think
    rows = int(1.5 * votes / options.overlap) + 2 * options.people
    data = folder / "data.jsonl"
    text = " ".join(["some words of an answer"] * 30)
    data.write_text(
        "".join(
            json.dumps({"prompt": f"question {k}?", "chosen": f"{text} {k}", "rejected": text})
            + "\n"
            for k in range(rows)
        )
    )
    words = [
        "serve",
        str(data),
        "--out",
        str(folder / "project"),
        "--overlap",
        str(options.overlap),
    ]
    words += ["--database", url] if url else []
    server = LabelServer(*words)
    try:
        server.start()
        links = invite_everybody(folder / "project", url, options.people)
        began = time.time()
        seen = asyncio.run(run_load(server, links, options, postgres))
        took = time.time() - began
        server.stop()
        found = check_votes(folder / "project", url, seen)
    finally:
        server.stop()
        if postgres:
            postgres.end()
    ms = 1000 * np.array(seen.latencies or [np.nan])
    return {
        "database": "postgresql" if url else "sqlite",
        "people": options.people,
        "minutes": round(took / 60, 2),
        "kills": options.kills,
        "restarts": options.restarts if url else 0,
        "items": rows,
        "overlap": options.overlap,
        **found,
        "votes_per_second": round(len(seen.latencies) / took, 2),
        "vote_ms": {f"p{q}": round(float(np.percentile(ms, q)), 1) for q in (50, 95, 99)},
        "sent_again": seen.retried,
        "refused": dict(seen.refused),
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": round(LOAD_BEFORE, 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def invite_everybody(folder: Path, url: str, n: int) -> list[str]:
    """Return an invitation for each of n people."""
    database = find_database(folder, url)
    with database.write() as connection:
        tokens = [
            people.make_invite(connection, people.add_person(connection, f"person {k}"))
            for k in range(n)
        ]
    database.close()
    return [f"/enter/{token}" for token in tokens]


def is_sound(found: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or given beyond the overlap."""
    bad = ("lost", "doubled", "over_overlap", "wrong_counts")
    return found["acknowledged"] > 0 and not any(found[name] for name in bad)


LOAD_BEFORE = os.getloadavg()[0]


def main() -> int:
    """Run the load and print what was found as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--think", type=float, default=6.0, help="mean seconds before a vote")
    parser.add_argument("--overlap", type=int, default=2)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=1, help="of PostgreSQL")
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="also write the JSON here")
    options = parser.parse_args()
    if options.postgresql and not is_there():
        print(ABSENT, file=sys.stderr)
        return 2
    found = measure(options)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    return 0 if is_sound(found) else 1


if __name__ == "__main__":
    sys.exit(main())
