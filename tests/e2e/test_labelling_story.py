"""From seeded questions through three people to a trained policy, over real HTTP.

Three simulated people of known accuracy label through the pages of a real server. Their accuracies
are found again within .05, soft labels are compared with the majority on the truth, the export
opens in `datasets`, and `tandem run dpo` trains on it.
"""

from __future__ import annotations

import re
import threading

import httpx
import numpy as np
import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

from label_server import invite, served
from labels import Visitor, write_rows
from tandem.cli import main
from tandem.data.groups import Groups
from tandem.labelling.annotator_model import fit_annotators
from tandem.labelling.data_access import draw_posts, micro_model
from tandem.labelling.export import collect_votes
from tandem.labelling.judgements import load_gold, load_votes
from tandem.labelling.setup import find_database
from tandem.rng import Seed

POSTS, KNOWN = 220, 120
ACCURACY = {"Ann": 0.92, "Bob": 0.82, "Cleo": 0.72}


def serve_posts(path):
    """Write posts as rows; of some the better answer is known beforehand: gold."""
    drawn = draw_posts(POSTS, Seed(5))
    rows, truth = [], {}
    for k, (row, better) in enumerate(drawn):
        truth[row.answers] = better
        answers = [[{"role": "assistant", "content": a}] for a in row.answers]
        values = {"id": row.id, "prompt": list(row.messages), "completions": answers}
        values["ranks"] = [1, 1]
        if k < KNOWN:
            values["gold"] = 1 if better > 0 else 2
        rows.append(values)
    return write_rows(path, rows), truth


class Person(threading.Thread):
    """Labels through the pages until there is nothing left, and errs at a known rate."""

    def __init__(self, base, link, name, truth):
        super().__init__()
        self.base, self.link, self.name, self.truth = base, link, name, truth
        self.right: list[bool] = []
        self.failed: BaseException | None = None

    def run(self):
        try:
            with httpx.Client(base_url=self.base, follow_redirects=True, timeout=60) as client:
                self.label(Visitor(client))
        except BaseException as error:
            self.failed = error

    def label(self, visitor):
        visitor.enter(self.link)
        visitor.client.headers["HX-Request"] = "true"  # as the page's script asks
        luck = np.random.default_rng(sum(map(ord, self.name)))
        while visitor.token:
            shown = tuple(visitor.answers)
            better = self.truth.get(shown)
            if better is None:
                better = -self.truth[shown[::-1]]
            correct = bool(luck.random() < ACCURACY[self.name])
            asked = visitor.page
            while visitor.vote(2 if (better > 0) == correct else 6, seconds="2.5") and (
                visitor.status == 429
            ):
                threading.Event().wait(0.5)
                visitor.page = asked
            assert visitor.status == 200, visitor.page[:500]
            self.right.append(correct)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    root = tmp_path_factory.mktemp("story")
    data, truth = serve_posts(root / "posts.jsonl")
    folder = root / "project"
    words = ("serve", str(data), "--out", str(folder), "--overlap", "3", "--gold_share", "0.6",
             "--model", str(micro_model()))  # fmt: skip
    with served(*words) as server:
        people = [Person(server.base, invite(folder, n), n, truth) for n in ACCURACY]
        for person in people:
            person.start()
        for person in people:
            person.join()
    for person in people:
        assert person.failed is None, person.failed
    return folder, truth, people


def test_accuracies_are_found_again_within_five_points(labelled):
    folder, _, people = labelled
    database = find_database(folder)
    with database.read() as connection:
        votes = load_votes(connection)
        gold = {(i, 0, 1): float(s > 0) for i, s in load_gold(connection).items()}
        names = dict(connection.exec_driver_sql(
            "SELECT account.name, person.pseudonym FROM account JOIN person ON id = person_id"
        ).fetchall())  # fmt: skip
    database.close()
    assert len(votes) == sum(len(p.right) for p in people)
    found = fit_annotators([c for v in votes for c in v.comparisons()], gold)
    for person in people:
        measured = found.people[names[person.name]]
        assert measured.mean == pytest.approx(np.mean(person.right), abs=0.05), person.name
        assert measured.low <= np.mean(person.right) <= measured.high


def test_soft_labels_are_about_as_near_the_truth_as_the_majority(labelled):
    folder, truth, _ = labelled
    near = {}
    database = find_database(folder)
    with database.read() as connection:
        for labels in ("soft", "majority"):
            judged = collect_votes(connection, labels).judged
            said = [(j.answered.answers, p) for j in judged for _, _, p, _ in j.pairs]
            near[labels] = float(np.mean([(p > 0.5) == (truth[a] > 0) for a, p in said]))
    database.close()
    assert near["soft"] > near["majority"] - 0.05  # who gets which question hangs on the hour


def test_the_export_opens_in_datasets_and_trains(labelled, tmp_path, monkeypatch):
    import datasets

    folder, *_ = labelled
    out = folder / "exports" / "latest"
    assert main(["label", "export", str(folder), "--labels", "soft"]) == 0
    found = datasets.load_dataset(
        str(out), "preferences", cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert {"prompt", "chosen", "rejected", "p_chosen"} <= set(found.column_names)
    assert POSTS - KNOWN < len(Groups.read(out / "groups.parquet")) <= POSTS
    assert main(["data", "check", str(out / "groups.parquet")]) in (0, 1)
    monkeypatch.chdir(tmp_path)
    words = ["run", "dpo", "--model", str(micro_model()), "--data", str(out / "groups.parquet"),
             "--sampling.max_tokens", "24", "--out", "run", "--dpo.epochs", "1",
             "--sft.epochs", "1", "--reward.epochs", "1"]  # fmt: skip
    assert main(words) == 0
    assert list((tmp_path / "run").glob("*-dpo/artifact/*.safetensors"))


def test_the_refit_runs_in_its_own_process_and_orders_what_is_open(labelled, capfd):
    folder, *_ = labelled
    assert main(["label", "refit", str(folder), "--epochs", "1"]) == 0
    said = capfd.readouterr().out
    assert re.search(r"right on \d+% \[\d+%, \d+%\] of \d+ held-out votes", said)
