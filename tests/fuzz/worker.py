"""The process that does the cases, one after the other, until it is ended from outside."""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.corpus import Corpus
from fuzz.verdicts import Kind, Verdict, judge_error

KILLED = ("kills", "benches")
"""Kinds whose cases take minutes: a campaign has them by name alone."""
MEMORY = 6 << 30
"""Bytes of data segment above which an allocation fails, as on a small machine."""


def open_kinds(corpus: Corpus) -> dict[str, Kind]:
    """Return every kind of case by its name."""
    from fuzz.bench_kills import BenchKills
    from fuzz.configurations import Configurations
    from fuzz.data_files import DataFiles
    from fuzz.kills import Kills
    from fuzz.model_folders import ModelFolders
    from fuzz.plans import Plans
    from fuzz.run_folders import RunFolders
    from fuzz.servers import Servers

    quick = (DataFiles, Configurations, Plans, ModelFolders, RunFolders, Servers)
    return {kind.name: kind(corpus) for kind in (*quick, Kills, BenchKills)}


def settle(home: Path) -> None:
    """Keep everything that a case may make inside the campaign's folder."""
    os.environ |= {
        "TANDEM_CACHE": str(home / "cache"),
        "HF_HOME": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_PROXY": "127.0.0.1",
    }
    tempfile.tempdir = str(home / "tmp")
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)


def case_dice(seed: int, kind: str, number: int) -> random.Random:
    """Return the dice of one case."""
    return random.Random(f"{seed}/{kind}/{number}")


def do_case(kind: Kind, seed: int, number: int, folder: Path) -> Verdict:
    """Do one case in an empty folder; what escapes from it is a fault of the campaign's own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return kind.check(case_dice(seed, kind.name, number), folder)
    except Exception as error:
        verdict = Verdict("broken")
        judge_error(error, verdict)
        return verdict


def work(orders: Connection, home: Path, seed: int) -> None:
    """Do the cases that are ordered as (kind, number), and answer each with its verdict."""
    settle(home)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    kinds = open_kinds(Corpus(grown=home / "corpus"))
    ready: set[str] = set()
    while True:
        try:
            name, number = orders.recv()
        except EOFError:
            return
        kind = kinds[name]
        if name not in ready:
            kind.prepare(home)
            ready.add(name)
        begun = time.monotonic()
        verdict = do_case(kind, seed, number, home / "case")
        orders.send((verdict, time.monotonic() - begun))
        if number % 500 == 0:
            gc.unfreeze()  # each command freezes what it imported
            gc.collect()
