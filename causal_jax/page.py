"""A report as one self-contained HTML file: sections with pictures embedded, tables, folded facts. No scripts, nothing fetched."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causal_jax.history import plain
from causal_jax.types import UserError


@dataclass(frozen=True)
class Section:
    """A part of the report: heading, one sentence, then table, images and folded facts. `table` is trusted HTML; the rest is escaped."""

    heading: str
    caption: str = ""
    images: Sequence[Path | str] = ()
    table: str = ""
    command: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = True  # False: images side by side


CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: #22262b; font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 0 0 2px; }
.lead, .caption { color: #5b6470; margin: 0 0 16px; }
section { background: #fff; border: 1px solid #e5e7eb; border-radius: 12px; padding: 22px 24px; margin: 18px 0; }
figure { margin: 0 0 12px; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 16px; align-items: center; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 8px 12px 8px 0; vertical-align: top; }
th { font-weight: 600; color: #5b6470; border-bottom: 2px solid #d1d5db; vertical-align: bottom; }
td { border-bottom: 1px solid #eceef1; }
td:first-child { font-weight: 600; white-space: nowrap; }
td small { color: #6b7280; white-space: nowrap; font-size: .86em; display: block; }
tr.reference td { color: #7b838e; font-weight: 400; font-style: italic; }
pre { background: #f3f4f6; border-radius: 8px; padding: 10px 14px; font-size: .86rem; margin: 0 0 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: 6px 0; }
summary { cursor: pointer; color: #0072b2; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: .88rem; margin: 8px 0; }
dt { color: #5b6470; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { main { padding: 20px 10px; } section { padding: 16px 14px; } }
"""


def _facts(facts: Mapping[str, Any]) -> str:
    parts, simple = [], []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            parts.append(f"<details><summary>{html.escape(str(name))}</summary>{_facts(value)}</details>")
        else:
            simple.append(f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(_listed(value))}</dd>")
    return (f"<dl>{''.join(simple)}</dl>" if simple else "") + "".join(parts)


def _listed(value: Any) -> str:
    return ", ".join(plain(item) for item in value) if isinstance(value, list | tuple) else plain(value)


def _image(path: Path | str, alt: str) -> str:
    place = Path(path)
    kind = {".png": "png", ".gif": "gif", ".jpg": "jpeg", ".jpeg": "jpeg"}.get(place.suffix.lower())
    if kind is None or not place.is_file():
        raise UserError(f"images: got '{place}', expected an existing png, gif or jpg file")
    data = base64.b64encode(place.read_bytes()).decode()
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{html.escape(alt)}" title="{html.escape(place.name)}"></figure>'


def write_report(folder: Path | str, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Writes folder/report.html: one file, images embedded, no scripts. Returns its path. Raises UserError for a missing image."""
    parts = []
    for section in sections:
        images = "".join(_image(path, section.caption or section.heading) for path in section.images)
        parts.append(
            f"<section><h2>{html.escape(section.heading)}</h2>\n"
            + (f'<p class="caption">{html.escape(section.caption)}</p>\n' if section.caption else "")
            + section.table
            + (f'<div class="{"wide" if section.wide else "pair"}">{images}</div>' if images else "")
            + (f"<pre>{html.escape(section.command)}</pre>" if section.command else "")
            + _facts(section.facts)
            + "</section>"
        )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body><main><h1>{html.escape(title)}</h1>\n"
        + (f'<p class="lead">{html.escape(lead)}</p>\n' if lead else "")
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / "report.html").write_text(page, encoding="utf-8")
    return place / "report.html"
