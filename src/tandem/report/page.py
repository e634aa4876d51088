"""The report as one HTML file without network, and its numbers as JSON; model text is escaped.

The page carries its own content security policy: one style sheet and one script, both named by
their hash, and no other source of anything. A name or an answer that holds markup stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tandem import __version__
from tandem.errors import ConfigError
from tandem.report import views
from tandem.report.figures import Drawer, Figure
from tandem.report.results_file import BENCH, Results, read_results, refusing_what_is_none
from tandem.report.verdict import Sentence, listed_rows, verdict_sentences
from tandem.runs.atomic_files import finite_json, write_text

PAGE_ASSETS = files("tandem.report") / "assets"


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of a bench or a run, and `.json` beside it with every number on it.

    Args:
        path: see `read_results`.
        out: the HTML file; `report.html` in the folder unless given.

    Returns:
        The HTML file.

    Raises:
        DataError: there is nothing to report.
        ConfigError: the report would be written over the results.
    """
    with refusing_what_is_none(path):
        results = read_results(path)
        html, numbers = render_report(results)
    target = out or (path if path.is_dir() else path.parent) / "report.html"
    return save_page(html, numbers, target, (path, path / BENCH))


def save_page(
    html: str, numbers: Mapping[str, Any], target: Path, sources: Iterable[Path] = ()
) -> Path:
    """Write the HTML page, and its numbers as JSON beside it.

    Raises:
        ConfigError: one of the two would be written over what it was made from.
    """
    written = {target.resolve(), target.with_suffix(".json").resolve()}
    if over := [source for source in sources if source.resolve() in written]:
        raise ConfigError(
            f"--out {target} would write over {over[0]}",
            "a report is written as NAME.html and NAME.json, and its source must survive it",
            "choose another name, for example report.html",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html)
    twin = json.dumps(finite_json(numbers), indent=1, ensure_ascii=False, default=str)
    write_text(target.with_suffix(".json"), twin + "\n")
    return target


def render_report(results: Results) -> tuple[str, dict[str, Any]]:
    """Return the page and the numbers on it."""
    drawer = Drawer([row["policy"] for row in listed_rows(results)])
    points, score = views.length_points(results)
    drawn = {
        "frontier": drawer.frontier(results),
        "climbs": list(drawer.hacking(results)),
        "calibration": drawer.calibration(results.get("reward") or {}),
        "lengths": drawer.lengths(points, score),
    }
    said = verdict_sentences(results)
    html = fill_template(
        "report.html.jinja",
        drawer.sheet.css(),
        results=results,
        headline=said[0],
        beside=said[1:],
        table=views.method_table(results),
        order=views.claims_view(results),
        matrix=views.win_matrix_view(results),
        reward=views.reward_view(results),
        buckets=views.length_buckets(results),
        samples=views.samples_view(results),
        costs=views.costs_view(results),
        facts=views.facts_view(results),
        sizes=views.sizes_view(results),
        limits=views.limits_view(results),
        **drawn,
    )
    return html, {**results, "report": _shown(said, drawn, views.limits_view(results))}


def _shown(said: list[Sentence], drawn: Mapping[str, Any], limits: list[str]) -> dict[str, Any]:
    figures: list[Figure] = [f for f in drawn.values() if isinstance(f, Figure)]
    return {
        "verdicts": [asdict(sentence) for sentence in said],
        "figures": {
            f.name: {"alt": f.alt, **f.numbers} for f in [*figures, *drawn.get("climbs", [])]
        },
        "limits": limits,
        "tandem": __version__,
    }


def fill_template(template: str, figure_css: str, **values: Any) -> str:
    """Fill a template; style and script are allowed by their hash alone."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (PAGE_ASSETS / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (PAGE_ASSETS / "report.css").read_text(encoding="utf-8") + figure_css
    script = (PAGE_ASSETS / "report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_hashed(style)}'; script-src '{_hashed(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        policy=policy,
        version=__version__,
        width=views.WIDTH,
        **values,
    )


def _hashed(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
