"""What the site needs beyond mkdocs: an API reference, links into the repository, and formulas.

mkdocs calls the functions named `on_...` while it builds (`hooks` in mkdocs.yml).

- A name in `nav` that ends in "/" stands for all pages of that folder.
- `api/` has a page for every public module under src/tandem. The list is read from the folder, so
  a module that moves takes its page along.
- A link to a file outside docs/ leads to the repository; a picture from outside is copied in.
- `$...$` and `$$...$$` become MathML, which browsers draw without any script.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SOURCES = ROOT / "src"
PACKAGE = "tandem"
HEADINGS = {"adr/": "Decisions"}
LINK = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
CODE = re.compile(r"(^(```+|~~~+).*?^\2[ ]*$|(?<!`)(`+)(?!`).+?(?<!`)\3(?!`))", re.M | re.S)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


# --- pages and their order


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and spell out the folders in `nav`."""
    for uri, text in [*api_pages(), *listings(config.nav)]:
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=text))
    pages = [f.src_uri for f in files.documentation_pages()]
    config.nav = [entry for entry in map(_spelled(pages), config.nav or []) if entry]
    return files


def _spelled(pages: list[str]) -> Callable[[Any], Any]:
    """Return what replaces an entry of `nav`: its folders become lists of pages."""

    def spell(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {k: inside for k, v in entry.items() if (inside := spell(v))}
        if isinstance(entry, list):
            return [x for x in map(spell, entry) if x]
        return tree(entry, pages) if entry.endswith("/") else entry

    return spell


def tree(folder: str, pages: list[str]) -> list[Any]:
    """Return the pages below a folder as an entry of `nav`: its index, its pages, its folders."""
    inside = [p.removeprefix(folder) for p in pages if p.startswith(folder)]
    here = sorted((p for p in inside if "/" not in p), key=lambda p: (p != "index.md", p))
    folders = sorted({p.partition("/")[0] for p in inside if "/" in p})
    return [*(folder + p for p in here), *({f: tree(f"{folder}{f}/", pages)} for f in folders)]


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every public module of the package: its dotted name and its file."""
    for file in sorted((SOURCES / PACKAGE).rglob("*.py")):
        parts = file.relative_to(SOURCES).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        is_script = not (file.parent / "__init__.py").exists()  # Alembic runs those by their path
        if not is_script and not any(p.startswith("_") for p in parts):
            yield ".".join(parts), file


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield a page for every module; mkdocstrings writes it from the docstrings."""
    for name, file in modules():
        path = file.relative_to(SOURCES / PACKAGE)
        uri = f"api/{path.with_name('index.md' if path.stem == '__init__' else f'{path.stem}.md')}"
        title = name.rpartition(".")[2]
        link = os.path.relpath(file, (DOCS / uri).parent)
        source = f"Source: [{file.relative_to(ROOT)}]({link})"
        yield uri, f"---\ntitle: {title}\n---\n\n::: {name}\n\n{source}\n"


def listings(nav: Any) -> Iterator[tuple[str, str]]:
    """Yield an index for every folder in `nav` that has pages and no index of its own."""
    if isinstance(nav, dict | list):
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from listings(entry)
    elif (
        isinstance(nav, str) and nav.endswith("/") and (found := sorted((DOCS / nav).glob("*.md")))
    ):
        lines = [f"- [{_title(p)}]({p.name})" for p in found]
        yield (
            f"{nav}index.md",
            f"# {HEADINGS.get(nav, nav[:-1].capitalize())}\n\n" + "\n".join(lines),
        )


def _title(page: Path) -> str:
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.M)
    return found[1] if found else page.stem


# --- links


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ at the repository."""
    here = (DOCS / page.file.src_uri).parent

    def mended(found: re.Match[str]) -> str:
        bang, text, target = found.groups()
        return f"{bang}{text}({resolved(target, here, bool(bang), config, files)})"

    made, at = [], 0
    for code in CODE.finditer(markdown):
        made += [LINK.sub(mended, markdown[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*made, LINK.sub(mended, markdown[at:])])


def resolved(target: str, here: Path, picture: bool, config: MkDocsConfig, files: Files) -> str:
    """Return where a link leads on the site.

    Raises:
        PluginError: a link leads to a file that is not in the repository.
    """
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:|/", path):
        return target
    there = Path(os.path.normpath(here / path))
    anchor = anchor and f"#{anchor}"
    if there.is_relative_to(DOCS):
        return f"{path.rstrip('/')}/index.md{anchor}" if there.is_dir() else target
    if not there.exists() or not there.is_relative_to(ROOT):
        raise PluginError(f"{here.relative_to(DOCS)}: the link to {target} leads to no file")
    inside = there.relative_to(ROOT).as_posix()
    if picture:
        uri = f"pictures/{inside}"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(there)))
        return os.path.relpath(DOCS / uri, here)
    kind = "tree" if there.is_dir() else "blob"
    return f"{(config.repo_url or '').rstrip('/')}/{kind}/main/{inside}{anchor}"


# --- formulas


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Draw every formula of a page."""
    return FORMULA.sub(lambda found: drawn(found, page.file.src_uri), html)


def drawn(found: re.Match[str], where: str) -> str:
    """Return a formula as MathML.

    Raises:
        PluginError: the formula is not TeX that can be read, or has a command that is not known.
    """
    tex = html.unescape(found[3]).strip()
    braces = re.findall(r"(?<!\\)[{}]", tex)
    if braces.count("{") != braces.count("}"):
        raise PluginError(f"{where}: the formula {tex!r} has a brace without its other half")
    tex = re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", tex)  # the converter does not know it
    try:
        made = convert(tex, display="block" if found[2] == "[" else "inline")
    except Exception as error:  # the converter has a class for every mistake
        raise PluginError(f"{where}: the formula {tex!r} cannot be read: {error}") from error
    if unknown := re.search(r">\\(\w+)<", made):
        raise PluginError(f"{where}: the formula {tex!r} has an unknown command, {unknown[1]!r}")
    return f'<{found[1]} class="math">{made}</{found[1]}>'


def on_post_page(output: str, **_: Any) -> str:
    """Take out the part of the theme that asks GitHub for the number of stars."""
    return output.replace(' data-md-component="source"', "")


on_post_template = on_post_page  # 404.html
