"""What is made of votes, and who gives them: export, report, users, backup, restore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from tandem.cli.label import check_extra
from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError, nearest_name

LABELS = ("auto", "soft", "majority", "share")


def export_command(words: Sequence[str]) -> int:
    """Write groups, pairs, the votes table and a card."""
    check_extra()
    from tandem.labelling.assignment import load_project
    from tandem.labelling.export import export_votes as write

    parser = _parser("label export", "Write what people said: groups, TRL's pairs, votes, a card.")
    parser.add_argument("--out", type=str, default="", help="FOLDER/exports/latest if not given")
    parser.add_argument(
        "--labels",
        type=str,
        default="auto",
        help="soft (annotator model), majority, share of people, or auto: soft where it can be",
    )
    options = parse_words(parser, words)
    if options.labels not in LABELS:
        raise ConfigError(
            f"--labels {options.labels}.{nearest_name(options.labels, LABELS)}",
            f"labels are one of {', '.join(LABELS)}",
            "give one of them",
        )
    database = _open(options)
    out = Path(options.out) if options.out else Path(options.folder) / "exports" / "latest"
    with database.read() as connection:
        project = load_project(connection)
        done = write(connection, out, options.labels, title=project.title if project else "")
    database.close()
    print(f"{done.prompts} prompts, {done.pairs} pairs, {done.votes} judgements")
    for why, n in done.left_out.items():
        print(f"not among the pairs: {n} prompts, {why}")
    print(f"written to {done.folder}; its README.md says how it came about")
    print(f"next: tandem run dpo --model MODEL --data {done.folder / 'groups.parquet'}")
    return 0


def label_report_command(words: Sequence[str]) -> int:
    """Write the page about the labelling."""
    check_extra()
    from tandem.labelling.assignment import load_project
    from tandem.labelling.votes_page import write_label_report

    parser = _parser("label report", "Write one page: agreement, habits, accuracy, time.")
    parser.add_argument("--out", type=str, default="", help="FOLDER/report.html if not given")
    options = parse_words(parser, words)
    database = _open(options)
    out = Path(options.out) if options.out else Path(options.folder) / "report.html"
    with database.read() as connection:
        project = load_project(connection)
        written = write_label_report(connection, out, project.title if project else "")
    database.close()
    print(f"{written} (numbers: {written.with_suffix('.json').name})")
    return 0


def users_command(words: Sequence[str]) -> int:
    """List people, invite them, or forget them."""
    check_extra()
    from tandem.labelling import people

    parser = _parser("label users", "List people; invite one with a link that works once.")
    parser.add_argument("--add", type=str, default="", help="name of somebody new")
    parser.add_argument("--role", type=str, default="annotator", help="annotator or lead")
    parser.add_argument("--invite", type=str, default="", help="a new link for somebody known")
    parser.add_argument("--delete", type=str, default="", help="forget a name; the votes stay")
    parser.add_argument("--url", type=str, default="http://127.0.0.1:8700", help="of the page")
    options = parse_words(parser, words)
    database = _open(options)
    base = options.url.rstrip("/")
    with database.write() as connection:
        if options.add:
            number = people.add_person(connection, options.add, options.role)
            print(f"{base}/enter/{people.make_invite(connection, number)}")
        if options.invite:
            number = _find(people.list_people(connection), options.invite)
            print(f"{base}/enter/{people.make_invite(connection, number)}")
        if options.delete:
            people.delete_person(connection, _find(people.list_people(connection), options.delete))
        known = people.list_people(connection)
    database.close()
    if not (options.add or options.invite):
        for p in known:
            print(f"{p['name']:<24}  {p['role']:<9}  {p['pseudonym']}")
    return 0


def _find(known: Sequence[dict[str, Any]], name: str) -> int:
    names = {p["name"]: p["id"] for p in known}
    if name not in names:
        raise ConfigError(
            f"nobody is named {name!r}.{nearest_name(name, names)}",
            f"there are: {', '.join(names) or 'none'}",
            "give one of these names, or --add a new one",
        )
    return names[name]


def backup_command(words: Sequence[str]) -> int:
    """Copy all votes while people vote."""
    check_extra()
    from tandem.labelling.backup import make_backup

    parser = _parser("label backup", "Copy all votes into one file, while people vote.")
    parser.add_argument("--out", type=str, default="", help="folder; FOLDER/backups if not given")
    options = parse_words(parser, words)
    database = _open(options)
    folder = Path(options.out) if options.out else Path(options.folder) / "backups"
    path = make_backup(database, folder)
    database.close()
    print(f"{path}\nrestore it with `tandem label restore {path} --out FOLDER`")
    return 0


def restore_command(words: Sequence[str]) -> int:
    """Restore a backup into a new folder or an empty database."""
    check_extra()
    from tandem.labelling.backup import restore_votes as put_back

    parser = make_parser("label restore", "Restore a backup; what it holds is checked by digest.")
    parser.add_argument("file", type=str, help="a labels-*.sqlite of a backups folder")
    parser.add_argument("--out", type=str, default="", help="a new folder")
    parser.add_argument("--database", type=str, default="", help="an empty postgresql://... ")
    options = parse_words(parser, words)
    if not options.out:
        raise ConfigError(
            "--out is missing", "the project needs a folder", "give --out labels/restored"
        )
    found = put_back(Path(options.file), Path(options.out), options.database)
    print(f"{found.events} events restored, digest {found.digest}")
    return 0


def _parser(command: str, description: str) -> ArgumentParser:
    parser = make_parser(command, description)
    parser.add_argument("folder", type=str, help="the project's folder: --out of `label serve`")
    parser.add_argument("--database", type=str, default="", help="postgresql://..., if not SQLite")
    return parser


def _open(options: Any) -> Any:
    from tandem.labelling.setup import find_database

    return find_database(options.folder, options.database)
