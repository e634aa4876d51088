"""Votes are appended, leases keep places, overlap holds: on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import sqlalchemy as sa

from labels import asked, begin, everything, join, say, take
from postgres import ABSENT, Postgres, is_there
from tandem.errors import ConfigError, DataError
from tandem.labelling import people, vote_store
from tandem.labelling.assignment import (
    Project,
    find_ticket,
    keep_lease,
    load_project,
    next_ticket,
)
from tandem.labelling.judgements import load_votes
from tandem.labelling.questions import Questions
from tandem.labelling.schema import event, item, lease
from tandem.labelling.vote_store import Judgement, NotYours


@pytest.fixture(scope="module")
def postgres():
    if not is_there():
        yield None
        return
    server = Postgres()
    yield server
    server.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, postgres):
    if request.param == "sqlite":
        return ""
    if postgres is None:
        pytest.skip(ABSENT)
    return postgres.new_database()


@pytest.fixture
def start(tmp_path, url):
    opened = []

    def go(n=6, project=Project(), **questions):
        database = begin(tmp_path, asked(n), project, Questions(**questions), url)
        opened.append(database)
        return database

    yield go
    for database in opened:
        database.close()


def counted(database):
    with database.read() as connection:
        return load_votes(connection)


def test_a_vote_is_kept_with_everything_that_was_shown(start):
    database = start()
    ann = join(database, "Ann")
    ticket = take(database, ann)
    say(
        database, ann, ticket, 3, rationale=" because ", better_answer="best", seconds=0.5,
        device="phone",
    )  # fmt: skip
    (vote,) = counted(database)
    kept = vote.event
    assert vote.strength == 3
    assert kept["order"] == list(ticket.order)
    assert (kept["rationale"], kept["better_answer"]) == ("because", "best")
    assert (kept["device"], kept["protocol"], kept["source"]) == ("phone", "seven-point", "uniform")
    assert 0 <= kept["seconds"] <= 0.5
    assert vote.pseudonym == ann.pseudonym
    assert "Ann" not in str(kept)


def test_criteria_are_kept_as_shown_and_read_in_the_items_frame(start):
    project = Project(criteria=("helpful", "honest"))
    database = start(8, project)
    ann = join(database, "Ann")
    for ticket in everything(database, ann):
        first = "a" if ticket.order[0] == 0 else "b"
        say(database, ann, ticket, -1, project, criteria={"helpful": first, "honest": "same"})
    kept = counted(database)
    assert {v.event["order"][0] for v in kept} == {0, 1}
    for vote in kept:
        read = vote_store.criteria_by_answer(vote.event["criteria"], vote.event["order"])
        assert read == {"helpful": 1, "honest": 0}
    with database.read() as connection:
        assert load_project(connection) == project


@pytest.mark.parametrize("said", [{"short": "a"}, {"helpful": "much"}])
def test_a_criterion_that_is_not_asked_is_refused(start, said):
    project = Project(criteria=("helpful",))
    database = start(2, project)
    ann = join(database, "Ann")
    with pytest.raises(DataError, match="criterion"):
        say(database, ann, take(database, ann), 1, project, criteria=said)
    assert counted(database) == []


@pytest.mark.parametrize("names", [("a", "a"), ("",), ("x" * 41,), tuple("abcdefghi"), ("a\n",)])
def test_criteria_are_few_short_and_different(names):
    with pytest.raises(ConfigError, match="criteri"):
        Project(criteria=names)


def test_the_order_is_seeded_and_both_orders_come(start):
    database = start(40)
    ann = join(database, "Ann")
    orders = []
    for ticket in everything(database, ann):
        orders.append(ticket.order)
        say(database, ann, ticket)
    assert 8 < sum(o == (0, 1) for o in orders) < 32
    assert {v.strength for v in counted(database)} == {2}


def test_the_same_key_is_one_vote(start):
    database = start()
    ann, bob = join(database, "Ann"), join(database, "Bob")
    ticket = take(database, ann)
    first = say(database, ann, ticket, key="once")
    again = say(database, ann, ticket, -2, key="once")
    assert (again.id, again.repeated) == (first.id, True)
    assert [v.strength for v in counted(database)] == [2]
    with pytest.raises(NotYours):
        say(database, bob, take(database, bob), key="once")


def test_edit_and_undo_are_events_and_nothing_is_changed(start):
    database = start()
    ann = join(database, "Ann")
    ticket = take(database, ann)
    say(database, ann, ticket, 1)
    say(database, ann, ticket, -3)
    assert [v.strength for v in counted(database)] == [-3]
    with database.write() as connection:
        back = vote_store.record_undo(connection, ann, "undo", Project())
    assert back.token == ticket.token
    assert counted(database) == []
    assert take(database, ann).token == ticket.token, "the question is open again"
    say(database, ann, ticket, 2)
    with database.read() as connection:
        kinds = connection.execute(sa.select(event.c.kind).order_by(event.c.id)).scalars().all()
        chain = connection.execute(
            sa.select(event.c.id, event.c.supersedes).order_by(event.c.id)
        ).all()
        assert connection.execute(sa.select(sa.func.sum(item.c.votes))).scalar() == 1
    assert kinds == ["vote", "vote", "undo", "vote"]
    assert [later[1] for later in chain[1:]] == [e[0] for e in chain[:-1]]


@pytest.mark.parametrize("change", ["update", "delete"])
def test_the_database_refuses_to_change_an_event(start, change):
    database = start()
    ann = join(database, "Ann")
    say(database, ann, take(database, ann))
    statement = sa.delete(event) if change == "delete" else sa.update(event).values(choice=1)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        database.write() as connection,
    ):
        connection.execute(statement)


def test_a_second_first_event_cannot_be_written(start):
    database = start()
    ann = join(database, "Ann")
    say(database, ann, take(database, ann))
    with database.read() as connection:
        row = dict(connection.execute(sa.select(event)).mappings().one())
    row |= {"key": "forged"}
    row.pop("id")
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.insert(event).values(**row))


def test_two_people_do_not_get_the_same_item(start):
    database = start(6)
    first, second = (join(database, n) for n in ("Ann", "Bob"))
    items = set()
    for _ in range(3):
        for who in (first, second):
            ticket = take(database, who)
            assert ticket.item_id not in items
            items.add(ticket.item_id)
            assert take(database, who).token == ticket.token, "a reload shows the same question"
            say(database, who, ticket)
    assert take(database, first) is None
    assert len(counted(database)) == 6


def test_overlap_is_reached_and_never_passed(start):
    database = start(5, overlap=2)
    for name in ("Ann", "Bob", "Cleo"):
        who = join(database, name)
        for ticket in everything(database, who):
            say(database, who, ticket)
    with database.read() as connection:
        rows = connection.execute(sa.select(item.c.votes, item.c.open)).all()
    assert rows == [(2, False)] * 5


def test_an_expired_lease_gives_the_place_away_and_the_late_vote_is_kept_apart(start):
    project = Project(lease_seconds=1)
    database = start(1, project)
    ann, bob = join(database, "Ann"), join(database, "Bob")
    ticket = take(database, ann, project)
    assert take(database, bob, project) is None
    with database.write() as connection:
        connection.execute(sa.update(lease).values(expires_at=time.time() - 1))
    say(database, bob, take(database, bob, project))
    assert say(database, ann, ticket, project=project).kind == "late"
    assert [v.pseudonym for v in counted(database)] == [bob.pseudonym]
    with database.read() as connection:
        assert len(load_votes(connection, ("late",))) == 1


def test_an_expired_lease_on_a_free_place_still_counts(start):
    database = start(1)
    ann = join(database, "Ann")
    ticket = take(database, ann)
    with database.write() as connection:
        connection.execute(sa.update(lease).values(expires_at=time.time() - 1))
    assert say(database, ann, ticket).kind == "vote"


def test_a_skip_gives_the_item_to_others_and_many_skips_close_it(start):
    database = start(1)
    for k, name in enumerate(("Ann", "Bob", "Cleo")):
        who = join(database, name)
        ticket = take(database, who)
        with database.write() as connection:
            said = Judgement(f"skip{k}", reason="unclear")
            assert vote_store.record_skip(connection, who, ticket.token, said).kind == "skip"
        assert take(database, who) is None
    assert take(database, join(database, "Dan")) is None
    with database.read() as connection:
        assert connection.execute(sa.select(item.c.skips, item.c.open)).one() == (3, False)


def test_taking_a_skip_back_does_not_take_a_place_that_others_have(start):
    database = start(1)
    ann, bob = join(database, "Ann"), join(database, "Bob")
    ticket = take(database, ann)
    with database.write() as connection:
        vote_store.record_skip(connection, ann, ticket.token, Judgement("s", reason="unclear"))
    say(database, bob, take(database, bob))
    with database.write() as connection:
        back = vote_store.record_undo(connection, ann, "u", Project())
        assert back.token == ticket.token
        keep_lease(connection, back, Project())  # an open page asks for it every minute
    assert say(database, ann, ticket).kind == "late"
    assert [v.pseudonym for v in counted(database)] == [bob.pseudonym]


def test_what_says_nothing_is_refused(start):
    database = start()
    ann = join(database, "Ann")
    ticket = take(database, ann)
    with database.write() as connection:
        for said in (Judgement("a"), Judgement("b", choice=8)):
            with pytest.raises(DataError, match="nothing is chosen"):
                vote_store.record_vote(connection, ann, ticket.token, said, Project())
        with pytest.raises(DataError, match="reason"):
            vote_store.record_skip(connection, ann, ticket.token, Judgement("c", reason="dull"))
        required = Project(rationale="required")
        with pytest.raises(DataError, match="no reason is given"):
            vote_store.record_vote(
                connection, ann, ticket.token, Judgement("d", choice=1), required
            )
        both = Judgement("e", both_bad=True)
        vote_store.record_vote(connection, ann, ticket.token, both, Project())
    assert [(v.strength, v.event["both_bad"]) for v in counted(database)] == [(0, True)]


def test_another_persons_ticket_is_not_found(start):
    database = start()
    ann, bob = join(database, "Ann"), join(database, "Bob")
    ticket = take(database, ann)
    with database.write() as connection:
        assert find_ticket(connection, ticket.token, bob) is None
        with pytest.raises(NotYours):
            vote_store.record_vote(
                connection, bob, ticket.token, Judgement("x", choice=1), Project()
            )


def test_gold_items_come_at_their_share_and_beside_the_overlap(tmp_path, start):
    project = Project(gold_share=0.5, seed=3)
    database = start(60, project, known_share=0.0)
    with database.write() as connection:
        some = sa.select(item.c.id).order_by(item.c.id).limit(20)
        gold = {"strength": 1, "by": "data"}
        connection.execute(sa.update(item).where(item.c.id.in_(some)).values(gold=gold, open=False))
    ann = join(database, "Ann")
    sources = []
    for ticket in everything(database, ann, project):
        sources.append(ticket.source)
        assert "gold" not in str(ticket.item)
        say(database, ann, ticket, 1, project)
    assert sources.count("uniform") == 40
    assert 8 <= sources[:30].count("gold") <= 22


def test_active_order_follows_priorities_but_for_the_flagged_share_and_what_is_held_out(start):
    project = Project(active=True, uniform_share=0.3)
    database = start(80, project, held_out_share=0.25)
    with database.write() as connection:
        for number in connection.execute(sa.select(item.c.id)).scalars().all():
            connection.execute(
                sa.update(item).where(item.c.id == number).values(priority=float(number))
            )
    ann = join(database, "Ann")
    taken = []
    for ticket in everything(database, ann, project):
        with database.read() as connection:
            split = connection.execute(
                sa.select(item.c.split).where(item.c.id == ticket.item_id)
            ).scalar()
        taken.append((ticket.source, split, ticket.item_id))
        say(database, ann, ticket, 1, project)
    active = [number for source, _, number in taken if source == "active"]
    assert active == sorted(active, reverse=True)
    assert all(split == "train" for source, split, _ in taken if source == "active")
    assert 1 <= sum(source == "uniform" for source, *_ in taken[:30]) <= 16
    assert {v.event["source"] for v in counted(database)} == {"uniform", "active"}


def test_many_at_once_keep_the_overlap(start):
    database = start(12, overlap=2)
    people_ = [join(database, f"P{k}") for k in range(8)]
    failed: list[BaseException] = []

    def work(who):
        try:
            for ticket in everything(database, who):
                say(database, who, ticket)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(p,)) for p in people_]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failed == []
    with database.read() as connection:
        rows = connection.execute(sa.select(item.c.votes)).scalars().all()
    assert rows == [2] * 12
    pairs = [(v.event["person_id"], v.item["id"]) for v in counted(database)]
    assert len(pairs) == len(set(pairs)) == 24


def test_a_decision_makes_the_item_gold_and_leaves_the_leads_own_vote(start):
    database = start(1)
    lead = join(database, "Lea", "lead")
    say(database, lead, take(database, lead), 2)
    with database.write() as connection:
        number = connection.execute(sa.select(item.c.id)).scalar_one()
        vote_store.adjudicate_question(connection, lead, number, Judgement("d", choice=7), (0, 1))
        assert connection.execute(sa.select(item.c.gold)).scalar_one()["strength"] == -3
    assert [v.strength for v in counted(database)] == [2]


def test_deleting_a_person_keeps_the_votes_under_another_name(start):
    database = start()
    ann = join(database, "Ann")
    say(database, ann, take(database, ann))
    with database.write() as connection:
        people.delete_person(connection, ann.id)
        assert all(p["name"] != "Ann" for p in people.list_people(connection))
    (vote,) = counted(database)
    assert vote.pseudonym not in (ann.pseudonym, "Ann")


def test_a_ranking_keeps_partial_ranks_in_the_items_frame(tmp_path, url):
    database = begin(tmp_path, asked(1, answers=4), url=url)
    ann = join(database, "Ann")
    ticket = take(database, ann)
    assert ticket.item["kind"] == "ranking"
    by_answer = {0: 1, 1: None, 2: 2, 3: 2}
    shown = tuple(by_answer[k] for k in ticket.order)
    with database.write() as connection:
        said = Judgement("x", ranks=(1, None, None, None))
        with pytest.raises(DataError, match="fewer than two"):
            vote_store.record_vote(connection, ann, ticket.token, said, Project())
        vote_store.record_vote(
            connection, ann, ticket.token, Judgement("y", ranks=shown), Project()
        )
    (vote,) = counted(database)
    said = {c.unit[1:]: c.strength for c in vote.comparisons()}
    assert said == {(0, 2): 1, (0, 3): 1, (2, 3): 0}
    database.close()


def test_new_questions_are_added_and_known_ones_kept(tmp_path, url):
    database = begin(tmp_path, asked(2), url=url)
    ann = join(database, "Ann")
    say(database, ann, take(database, ann))
    database.close()
    database = begin(tmp_path, asked(3), url=url)
    with database.write() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(item)).scalar() == 3
        assert next_ticket(connection, ann, Project()) is not None
    assert len(counted(database)) == 1
    database.close()
