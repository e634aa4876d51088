"""The page without scripts, and who may see what: every route is walked."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import sqlalchemy as sa
from litestar.testing import TestClient

from labels import Visitor, asked, begin
from tandem.errors import ConfigError
from tandem.labelling import people
from tandem.labelling.assignment import Project
from tandem.labelling.judgements import load_votes
from tandem.labelling.questions import Questions
from tandem.labelling.room import LabelRoom
from tandem.labelling.schema import event, person
from tandem.labelling.security import HEADERS, LARGEST_BODY, SECRET, Binding, Limiter, find_secret
from tandem.labelling.server import make_app

SECRET_TEXT = "s" * 64


class Site:
    """A project that is served in this process."""

    def __init__(self, folder, n=4, project=Project(), **more):
        self.database = begin(folder, asked(n), project, Questions(**more), rubric="Be *kind*.")
        self.room = LabelRoom(self.database, folder, SECRET_TEXT)
        self.app = make_app(self.room)

    def link(self, name, role="annotator"):
        with self.database.write() as connection:
            number = people.add_person(connection, name, role)
            return f"/enter/{people.make_invite(connection, number)}"

    def visitor(self, name="", role="annotator"):
        found = Visitor(TestClient(self.app, raise_server_exceptions=False))
        if name:
            found.enter(self.link(name, role))
            assert found.status == 200, found.page
        return found

    def votes(self):
        with self.database.read() as connection:
            return load_votes(connection)


@pytest.fixture
def site(tmp_path):
    found = Site(tmp_path)
    yield found
    found.database.close()


def test_without_scripts_one_votes_edits_undoes_skips_and_finishes(site):
    ann = site.visitor("Ann")
    assert "0 done, 4 left" in ann.page
    ann.vote(2)
    assert "1 done, 3 left" in ann.page
    assert "Saved." in ann.page
    first = ann.token
    ann.post("/undo", key="undo-1")
    assert "Taken back" in ann.page or "0 done" in ann.page
    assert ann.token != first
    assert re.search(r'value="2" checked', ann.page), "what was said before is there"
    ann.vote(3, rationale="On <b>second</b> thought")
    ann.get("/mine")
    assert ann.page.count("<li>") == 1
    path = re.search(r'href="(/label/[^"]+)"', ann.page)[1]
    ann.get(path)
    assert "What you save now replaces it" in ann.page
    assert "&lt;b&gt;second" in ann.page
    ann.vote(1)
    ann.post(f"/label/{ann.token}/skip", key="skip-1", reason="expertise")
    assert "Skipped." in ann.page
    ann.vote(4)
    ann.vote("", both_bad="yes")
    assert "You are done" in ann.page
    assert sorted(v.event["choice"] for v in site.votes()) == [1, 4, 4]
    assert sum(v.event["both_bad"] for v in site.votes()) == 1


def test_nothing_on_the_page_says_who_wrote_an_answer(site):
    ann = site.visitor("Ann")
    seen = ann.page
    for _ in range(3):
        seen += ann.vote(2)
    seen += ann.get("/mine") + ann.get("/account")
    assert "SECRET-model" not in seen
    assert "question" in seen
    assert not re.search(r"[?&/](gold|uniform|active|train|held_out)\b", seen)


def test_a_wrong_vote_is_explained_and_nothing_is_kept(site):
    ann = site.visitor("Ann")
    ann.vote("9")
    assert ann.status == 422
    assert "Nothing is chosen" in ann.page
    assert site.votes() == []


def test_an_empty_project_says_so(tmp_path):
    site = Site(tmp_path, n=0)
    assert "Nothing to judge yet" in site.visitor("Ann").page
    site.database.close()


def test_an_invitation_works_once_and_opening_it_does_not_use_it_up(site):
    link = site.link("Ann")
    first, second = site.visitor(), site.visitor()
    first.get(link)
    second.enter(link)
    assert "Which answer is better?" in second.page
    first.post(f"{link}/begin")
    assert "cannot be used" in first.page


def test_passwords_let_in_and_wrong_ones_do_not(site):
    ann = site.visitor("Ann")
    ann.get("/account")
    ann.post("/account/password", password="short")
    assert ann.status == 422
    ann.post("/account/password", password="four quiet green boats")
    assert "The password is set" in ann.page
    other = site.visitor()
    other.get("/sign-in")
    other.post("/session", name="Ann", password="four quiet green boots")
    assert (other.status, "do not fit" in other.page) == (401, True)
    other.post("/session", name="Ann", password="four quiet green boats")
    assert "Which answer is better?" in other.page
    with site.database.read() as connection:
        kept = connection.execute(sa.text("SELECT password FROM account")).scalars().all()
    assert any(k and k.startswith("$argon2") for k in kept)


def test_attempts_on_one_name_are_limited(site):
    site.visitor("Ann")
    guesser = site.visitor()
    guesser.get("/sign-in")
    found = []
    for k in range(8):
        guesser.post("/session", name="Ann", password=f"guess number {k}")
        found.append(guesser.status)
        guesser.get("/sign-in")
    assert found[-1] == 429
    assert found[0] == 401


def test_requests_of_an_account_are_limited_whatever_its_session(site):
    site.room.requests = Limiter(rate=0.001, burst=5)
    ann = site.visitor("Ann")
    statuses = []
    for _ in range(8):
        ann.get("/mine")
        statuses.append(ann.status)
    assert statuses[-1] == 429
    assert 200 in statuses
    bob = site.visitor()
    bob.get("/sign-in")
    assert bob.status == 200


def test_signing_out_ends_the_session_on_the_server(site):
    ann = site.visitor("Ann")
    cookie = ann.client.cookies.get("tandem_session")
    ann.get("/account")
    ann.post("/sign-out")
    ann.client.cookies.set("tandem_session", cookie)
    ann.get("/mine")
    assert "Sign in" in ann.page


def test_deleting_ones_account_keeps_the_votes(site):
    ann = site.visitor("Ann")
    ann.vote(2)
    ann.get("/account")
    ann.post("/account/delete", sure="yes")
    assert len(site.votes()) == 1
    ann.get("/mine")
    assert "Sign in" in ann.page
    with site.database.read() as connection:
        assert "Ann" not in str(connection.execute(sa.text("SELECT * FROM account")).all())


def test_cookies_are_closed_to_scripts_and_other_sites(site):
    link = site.link("Ann")
    visitor = site.visitor()
    visitor.get(link)
    token = visitor.field("_csrf_token")
    answer = visitor.client.post(
        f"{link}/begin", data={"_csrf_token": token}, follow_redirects=False
    )
    session = next(c for c in answer.headers.get_list("set-cookie") if "tandem_session" in c)
    assert "HttpOnly" in session
    assert "SameSite=lax" in session


def test_over_tls_cookies_are_secure(tmp_path):
    database = begin(tmp_path, asked(2))
    app = make_app(LabelRoom(database, tmp_path, SECRET_TEXT, secure=True))
    with database.write() as connection:
        token = people.make_invite(connection, people.add_person(connection, "Ann"))
    visitor = Visitor(TestClient(app, base_url="https://label.example"))
    visitor.get(f"/enter/{token}")
    answer = visitor.client.post(
        f"/enter/{token}/begin",
        data={"_csrf_token": visitor.field("_csrf_token")},
        follow_redirects=False,
    )
    assert answer.status_code == 303, answer.text
    session = next(c for c in answer.headers.get_list("set-cookie") if "tandem_session" in c)
    assert session.startswith("__Host-")
    assert "Secure" in session
    assert "max-age" in answer.headers["Strict-Transport-Security"]
    database.close()


def routes(app):
    """Every path and method of the application, but what the framework answers by itself."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            for method in handler.http_methods - {"OPTIONS"}:
                yield method, route.path


PUBLIC = {
    ("GET", "/enter/{token:str}"), ("POST", "/enter/{token:str}/begin"), ("GET", "/sign-in"),
    ("POST", "/session"), ("GET", "/assets/{name:str}"), ("POST", "/csp-report"),
    ("GET", "/health"),
}  # fmt: skip
OWN = {
    ("GET", "/"), ("GET", "/label"), ("GET", "/mine"), ("GET", "/account"), ("POST", "/undo"),
    ("POST", "/sign-out"), ("POST", "/account/password"), ("POST", "/account/delete"),
}  # fmt: skip


def filled(path, token, number):
    path = path.replace("{token:str}", token).replace("{number:int}", str(number))
    return path.replace("{place:int}", "0").replace("{name:str}", "label.css")


def test_every_route_is_closed_to_those_whom_it_is_not_for(site):
    """Another annotator's item and vote, and the lead's pages: 403 or 404, on every route."""
    site.room.requests = Limiter(rate=1000, burst=1000)
    ann, bob = site.visitor("Ann"), site.visitor("Bob")
    lead = site.visitor("Lea", "lead")
    ann.vote(2)
    theirs = ann.token
    table = sorted(set(routes(site.app)))
    paths = [path for _, path in table]
    assert len(paths) == len(set(paths)), "one method a path: see routes/entry.py"
    walked = 0
    for method, path in table:
        if (method, path) in PUBLIC:
            continue
        real = filled(path, theirs, 1)
        stranger = site.visitor()
        stranger.get("/sign-in")
        stranger.get(real) if method == "GET" else stranger.post(real, choice=1, key="x")
        assert "Sign in" in stranger.page or stranger.status in (401, 403), (method, path)
        if (method, path) in OWN:
            continue
        bob.get("/label")
        bob.get(real) if method == "GET" else bob.post(real, choice=1, reason="other", sure="yes")
        assert bob.status in (403, 404), (method, path, bob.status)
        if path.startswith("/lead"):
            lead.get("/lead/people")
            lead.get(real) if method == "GET" else None
            assert lead.status == 200, (method, path, lead.status, lead.page[:2000])
        walked += 1
    assert walked >= 18
    assert len(site.votes()) == 1


def test_every_write_needs_its_token(site):
    site.room.requests = Limiter(rate=1000, burst=1000)
    ann = site.visitor("Ann")
    for method, path in sorted(set(routes(site.app))):
        if method == "GET" or path == "/csp-report":
            continue
        real = filled(path, ann.token, 1)
        assert ann.client.post(real, data={"choice": 1}).status_code == 403, path
        wrong = {"choice": 1, "_csrf_token": "0" * 128}
        assert ann.client.post(real, data=wrong).status_code == 403, path
    assert site.votes() == []


def test_every_answer_carries_the_policy(site):
    ann = site.visitor("Ann")
    for path in ("/label", "/mine", "/account", "/no-such-page", "/lead", "/assets/label.css"):
        answer = ann.client.get(path)
        for name in HEADERS:
            assert name in answer.headers, (path, name)
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        if not path.startswith("/assets"):
            assert answer.headers["Cache-Control"] == "no-store"
    stranger = site.visitor().client.get("/label", follow_redirects=False)
    assert "Content-Security-Policy" in stranger.headers


def test_pages_hold_no_inline_script_and_no_other_source(site):
    lead = site.visitor("Lea", "lead")
    lead.get("/label")
    lead.vote(2)
    every = lead.page
    for path in ("/mine", "/account", "/lead", "/lead/report", "/lead/items", "/lead/items/1",
                 "/lead/disputed", "/lead/people", "/lead/rubric", "/sign-in"):  # fmt: skip
        every += lead.get(path)
        assert lead.status == 200, path
    assert not re.search(r"<script(?![^>]*src=)", every)
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", every)
    for found in re.findall(r'(?:src|href|action)="([^"]*)"', every):
        assert found.startswith(("/", "#")), found


def test_too_large_a_body_is_refused(site):
    ann = site.visitor("Ann")
    ann.vote(2, rationale="x" * (LARGEST_BODY + 1))
    assert ann.status == 413
    assert site.votes() == []


def test_the_lead_invites_and_forgets_people(site):
    lead = site.visitor("Lea", "lead")
    lead.get("/lead/people")
    lead.post("/lead/people/add", name="Cleo", role="annotator")
    link = re.search(r'<code class="link">([^<]+)', lead.page)[1]
    cleo = site.visitor()
    cleo.enter(link)
    assert "Which answer is better?" in cleo.page
    with site.database.read() as connection:
        number = next(p["id"] for p in people.list_people(connection) if p["name"] == "Cleo")
    lead.get("/lead/people")
    lead.post(f"/lead/people/{number}/delete", sure="yes")
    assert "Cleo" not in lead.page
    cleo.get("/label")
    assert "Sign in" in cleo.page


def test_the_lead_decides_what_is_disputed_and_it_becomes_gold(tmp_path):
    site = Site(tmp_path, n=1, overlap=2)
    for name, choice in (("Ann", 1), ("Bob", 7)):
        who = site.visitor(name)
        good_first = who.answers[0].startswith("good")
        who.vote(choice if good_first else 8 - choice)
    lead = site.visitor("Lea", "lead")
    lead.get("/lead/disputed")
    assert "1 item to decide" in lead.page
    assert "SECRET-model" not in lead.page, "the decision is blind too"
    good_first = lead.answers[0].startswith("good")
    lead.post("/lead/disputed/1/decide", key=lead.field("key"), choice=1 if good_first else 7)
    assert "Nothing is disputed" in lead.page
    lead.get("/lead/items/1")
    assert "gold by adjudication: strength 3" in lead.page
    assert "SECRET-model-0" in lead.page, "the lead sees who wrote what, afterwards"
    site.database.close()


def test_each_vote_carries_the_version_of_the_rubric(site):
    ann, lead = site.visitor("Ann"), site.visitor("Lea", "lead")
    ann.vote(2)
    lead.get("/lead/rubric")
    lead.post("/lead/rubric/add", text="Be *strict*.")
    ann.get("/label")
    assert "version 2" in ann.page
    ann.vote(2)
    assert [v.event["rubric"] for v in site.votes()] == [1, 2]


def test_the_export_is_for_the_lead_and_holds_no_name(site, tmp_path):
    import io
    import zipfile

    ann, lead = site.visitor("Ann Example"), site.visitor("Lea", "lead")
    ann.vote(2, better_answer="A better one")
    answer = lead.client.get("/lead/export")
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert {"README.md", "groups.parquet", "votes.parquet"} <= set(packed.namelist())
    assert "Ann Example" not in str([packed.read(n) for n in packed.namelist()])


@pytest.mark.parametrize(
    ("binding", "secret", "what"),
    [
        (Binding("0.0.0.0"), "", "without TLS"),
        (Binding("192.168.1.2"), SECRET_TEXT, "without TLS"),
        (Binding("example.org"), SECRET_TEXT, "without TLS"),
        (Binding("0.0.0.0", public_url="https://x.org"), "", "is not set"),
        (Binding("0.0.0.0", public_url="https://x.org"), "short", "too short"),
        (Binding("127.0.0.1", public_url="http://x.org"), SECRET_TEXT, "public_url"),
        (Binding("127.0.0.1", certificate="cert.pem"), SECRET_TEXT, "without --tls_key"),
    ],
)
def test_a_public_address_without_tls_or_secret_is_refused(monkeypatch, binding, secret, what):
    monkeypatch.setenv(SECRET, secret)
    with pytest.raises(ConfigError, match=what):
        binding.check()


def test_this_machine_alone_needs_neither(monkeypatch, tmp_path):
    monkeypatch.delenv(SECRET, raising=False)
    for host in ("127.0.0.1", "localhost", "::1"):
        Binding(host).check()
    secret = find_secret(tmp_path)
    assert len(secret) == 64
    assert find_secret(tmp_path) == secret
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


def test_another_host_name_is_refused_so_that_no_page_can_rebind_it(tmp_path):
    database = begin(tmp_path, asked(1))
    room = LabelRoom(database, tmp_path, SECRET_TEXT, hosts=("127.0.0.1:8700",))
    client = TestClient(make_app(room), base_url="http://evil.example")
    assert client.get("/sign-in").status_code == 400
    client = TestClient(make_app(room), base_url="http://127.0.0.1:8700")
    assert client.get("/sign-in").status_code == 200
    database.close()


def test_sessions_end_when_idle_and_tokens_are_kept_as_hashes(site):
    ann = site.visitor("Ann")
    cookie = ann.client.cookies.get("tandem_session")
    with site.database.write() as connection:
        kept = connection.execute(sa.text("SELECT token FROM session")).scalars().all()
        assert cookie not in kept
        connection.execute(sa.text("UPDATE session SET seen_at = 0"))
    ann.get("/label")
    assert "Sign in" in ann.page


def test_a_failure_shows_no_detail(site, monkeypatch):
    ann = site.visitor("Ann")

    def broken(*_):
        raise RuntimeError("the secret inside")

    monkeypatch.setattr("tandem.labelling.routes.label.next_ticket", broken)
    ann.get("/label")
    assert ann.status == 500
    assert "secret inside" not in ann.page
    assert "Traceback" not in ann.page


def test_names_stand_in_accounts_alone(site):
    ann = site.visitor("Ann Example")
    ann.vote(2)
    with site.database.read() as connection:
        for table in (event, person):
            assert "Ann Example" not in str(connection.execute(sa.select(table)).all())
