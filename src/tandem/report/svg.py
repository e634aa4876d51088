"""From matplotlib's SVG to SVG that lives in a page: no inline style, the page's own colours.

The page's content security policy forbids style attributes, and its colours change with the
reader's light or dark setting. So a figure is drawn with marker colours (`INK`, `SERIES`...), and
every style attribute becomes a class whose rule names the page's variables instead.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0a0b{k:02x}" for k in range(1, 9))
THEME_COLOURS = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--s{k}" for k, colour in enumerate(SERIES, 1)
}
SAFE = re.compile(r"[a-z-]+: ?[#a-zA-Z0-9.,'()% -]+")

ET.register_namespace("", SVG)


@dataclass
class Sheet:
    """The style rules of all figures of a page, each written once."""

    rules: dict[str, str] = field(default_factory=dict[str, str])

    def name(self, style: str) -> str:
        """Return the class of a style attribute."""
        parts = [p.strip() for p in style.split(";") if SAFE.fullmatch(p.strip())]
        rule = ";".join(_translated(p) for p in parts)
        return self.rules.setdefault(rule, f"m{len(self.rules)}")

    def css(self) -> str:
        """Return the rules."""
        return "\n".join(f".{name}{{{rule}}}" for rule, name in self.rules.items())


def _translated(part: str) -> str:
    key, _, value = part.partition(":")
    value = value.strip()
    if key == "font":
        size = value.split("px")[0].split()[-1]
        return f"font-size:{size}px"
    return f"{key}:var({THEME_COLOURS[value]})" if value in THEME_COLOURS else f"{key}:{value}"


def embed_figure(figure: Any, name: str, alt: str, sheet: Sheet) -> str:
    """Return a matplotlib figure as an SVG element of the page.

    Args:
        figure: the figure.
        name: unique on the page; every id in the drawing starts with it.
        alt: what it shows, in words with numbers.
        sheet: takes the styles.
    """
    raw = io.BytesIO()
    figure.savefig(raw, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(raw.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _adopt(element, name, sheet)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": alt, "id": name, "class": "drawing"}
    return ET.tostring(root, encoding="unicode")


def _adopt(element: ET.Element, name: str, sheet: Sheet) -> None:
    style = element.attrib.pop("style", None)
    if style:
        element.set("class", sheet.name(style))
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{XLINK}}}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        elif value.startswith("url(#"):
            element.set(key, f"url(#{name}-{value[5:-1]})")
