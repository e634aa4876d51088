"""`tandem label ...`: people judge answers on a page; what they say becomes data.

Nothing of the extra `tandem-rlhf[label]` is imported before one of these commands runs.
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.settings import leaf_settings, make_parser, parse_words, with_parsed_values
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from tandem.labelling.setup import Opened

PORT = 8700
NEEDED = ("litestar", "uvicorn", "sqlalchemy", "alembic", "nh3", "markdown_it", "pwdlib")


def serve_command(words: Sequence[str]) -> int:
    """Serve the labelling page until it is stopped."""
    check_extra()
    from tandem.labelling.assignment import Project
    from tandem.labelling.data_access import read_answered
    from tandem.labelling.questions import Questions
    from tandem.labelling.security import Binding
    from tandem.labelling.setup import open_project

    parser = make_parser("label serve", "Serve a page on which people say which answer is better.")
    parser.add_argument("data", type=str, help="prompts with 2 to 9 answers, in any known format")
    parser.add_argument("--out", type=str, default="", help="the project's folder; it is kept")
    parser.add_argument("--limit", type=int, default=0, help="read only this many rows")
    parser.add_argument("--rubric", type=str, default="", help="Markdown file: how to judge")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="check and explain only"
    )
    _add_database(parser)
    _add_flat(parser, Binding(), {"certificate": "tls_certificate", "key": "tls_key"})
    _add_flat(parser, Project())
    _add_flat(parser, Questions())
    options = parse_words(parser, words)
    binding = _binding(options)
    binding.check()
    if not options.out:
        raise ConfigError(
            "--out is missing", "votes are kept in a folder", "give --out labels/first"
        )
    project, questions = (
        with_parsed_values(Project(), options),
        with_parsed_values(Questions(), options),
    )
    rubric = _read_rubric(options.rubric)
    rows, notes = read_answered(options.data, options.limit or None)
    print("\n".join(notes))
    if options.dry_run:
        print(f"{len(rows)} prompts would be asked, each of {questions.overlap} people")
        return 0
    opened = open_project(
        Path(options.out), rows, project, questions, url=options.database, rubric=rubric
    )
    return _serve(opened, binding)


def demo_command(words: Sequence[str]) -> int:
    """Serve the page on seeded data."""
    check_extra()
    from tandem.labelling.assignment import Project
    from tandem.labelling.data_access import micro_model
    from tandem.labelling.demo import RUBRIC, demo_questions
    from tandem.labelling.questions import Questions
    from tandem.labelling.security import Binding
    from tandem.labelling.setup import open_project
    from tandem.rng import Seed

    parser = make_parser("label demo", "Try the labelling page on seeded data.")
    parser.add_argument("--port", type=int, default=PORT, help="a free one if it is taken")
    parser.add_argument("--out", type=str, default="labels/demo", help="kept, and gone on with")
    options = parse_words(parser, words)
    port = options.port if _is_free(options.port) else 0
    project = Project(gold_share=0.1, active=True, refit_every=20, model=str(micro_model()))
    opened = open_project(
        Path(options.out), demo_questions(Seed(0)), project, Questions(), rubric=RUBRIC
    )
    return _serve(opened, Binding(port=port))


def _serve(opened: Opened, binding: Any) -> int:
    from tandem.labelling.room import LabelRoom
    from tandem.labelling.security import find_secret
    from tandem.labelling.server import run_server as run

    port = binding.port or _free_port()
    start = binding.public_url or _address(binding, port)
    print(f"\nopen    {start}/enter/{opened.token}")
    print(f"votes   {opened.database.shown_url}")
    print(f"others  tandem label users {opened.folder} --add NAME")
    print("stop    Ctrl-C; the same command goes on", flush=True)
    room = LabelRoom(
        opened.database,
        opened.folder,
        find_secret(opened.folder),
        secure=binding.is_secure,
        hosts=_hosts(binding, port),
    )
    try:
        run(room, binding.host, port, binding.certificate, binding.key)
    except KeyboardInterrupt:
        pass
    finally:
        opened.database.close()
    return 0


def _address(binding: Any, port: int) -> str:
    host = f"[{binding.host}]" if ":" in binding.host else binding.host
    return f"{'https' if binding.certificate else 'http'}://{host}:{port}"


def _hosts(binding: Any, port: int) -> tuple[str, ...]:
    """Names under which the page may be asked for: a page elsewhere cannot rebind its name."""
    from urllib.parse import urlsplit

    if binding.public_url:
        return (urlsplit(binding.public_url).netloc,)
    names = ("127.0.0.1", "localhost", "[::1]") if binding.is_local else ()
    return tuple(f"{name}:{port}" for name in names)


def _binding(options: Namespace) -> Any:
    from tandem.labelling.security import Binding

    return Binding(
        host=options.host,
        port=options.port,
        certificate=options.tls_certificate,
        key=options.tls_key,
        public_url=options.public_url.rstrip("/"),
    )


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _read_rubric(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--rubric {path}: {error}", "it is a text file", "mend it") from error


def _add_database(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--database",
        type=str,
        default="",
        help="postgresql://..., or TANDEM_LABEL_DATABASE; SQLite in the folder if absent",
    )


def _add_flat(parser: ArgumentParser, config: Any, names: dict[str, str] | None = None) -> None:
    """Add a flag for every field of a config, without a prefix."""
    for s in leaf_settings(config, ""):
        name = s.name.removeprefix(".")
        flag = (names or {}).get(name, name)
        parser.add_argument(f"--{flag}", type=s.hint, default=s.default, help=s.help or None)


def check_extra() -> None:
    """Refuse, with what to type, where the extra is not installed.

    Raises:
        ConfigError: a package of the extra is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"`tandem label` needs {', '.join(missing)}",
            "the labelling page is an extra, so that training does not carry a web server",
            "pip install 'tandem-rlhf[label]'",
        )
