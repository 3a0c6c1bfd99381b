"""The findings as one page: HTML with everything in it, that asks for nothing from anywhere."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from t2x_core.data_check.kinds import KINDS, Finding
from t2x_core.media import Place
from t2x_core.terminal import printable
from t2x_core.wording import counted

SHOWN = 60
"""Findings of a kind that the page shows; all are in the JSON lines."""


@dataclass(frozen=True)
class Summary:
    """What was checked."""

    recipe: str
    files: int
    """All that there are."""
    checked: int
    """Those that were looked at, now or before."""
    findings: Sequence[Finding]
    when: str

    @property
    def by_kind(self) -> dict[str, list[Finding]]:
        """Kind → its findings, in the order of `KINDS`."""
        found: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            found[finding.kind].append(finding)
        return {kind: found[kind] for kind in KINDS if kind in found}

    @property
    def suspects(self) -> int:
        """Files with a finding."""
        return len({(finding.task, finding.name) for finding in self.findings if finding.entry is not None})


def shown_places(summary: Summary) -> dict[Place, tuple[str, bool]]:
    """What the page has images of: place → (task, whether it is to be shown though it is damaged)."""
    places: dict[Place, tuple[str, bool]] = {}
    for kind, findings in summary.by_kind.items():
        for finding in findings[:SHOWN]:
            for entry in (finding.entry, *finding.others[:1]):
                if entry is not None:
                    places.setdefault(entry.place, (finding.task, kind == "damaged"))
    return places


def render_page(summary: Summary, thumbnails: Mapping[Place, bytes]) -> str:
    """The page; `thumbnails`: JPEGs of what `shown_places` names."""
    kinds = summary.by_kind
    if summary.findings:
        nav = "".join(
            f'<a href="#{kind}">{_text(KINDS[kind].title)}<b>{len(findings):,}</b></a>'
            for kind, findings in kinds.items()
        )
        tools = '<input id="filter" type="search" placeholder="Filter by name or text" aria-label="Filter findings">'
        body = f'<nav aria-label="Kinds of findings">{nav}</nav>{tools}<p id="none" hidden>Nothing matches.</p>'
        body += "".join(_section(kind, findings, thumbnails) for kind, findings in kinds.items())
    else:
        body = '<p class="good">Nothing is wrong.</p>'
    partly = "" if summary.checked == summary.files else " <em>The check was stopped before its end.</em>"
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value:,}</dd></div>"
        for name, value in (
            ("files", summary.files),
            ("checked", summary.checked),
            ("files with findings", summary.suspects),
            ("findings", len(summary.findings)),
        )
    )
    recipe = _text(summary.recipe)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data check of {recipe}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head><body><header><h1>Data check <span>{recipe}</span></h1>"
        f"<p>{_text(summary.when)}.{partly}</p><dl>{tiles}</dl></header>"
        f"<main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _text(text: str) -> str:
    """Text of others, that neither markup nor a control or bidirectional character gets through."""
    return escape(printable(text))


def _section(kind: str, findings: Sequence[Finding], thumbnails: Mapping[Place, bytes]) -> str:
    cards = "".join(_card(finding, thumbnails) for finding in findings[:SHOWN])
    rest = len(findings) - SHOWN
    more = f'<p class="more">{counted(rest, "more finding")} in findings.jsonl.</p>' if rest > 0 else ""
    known = KINDS[kind]
    return (
        f'<section id="{kind}"><h2>{_text(known.title)} <b>{len(findings):,}</b></h2><p>{_text(known.advice)}</p>'
        f'<div class="cards">{cards}</div>{more}</section>'
    )


def _card(finding: Finding, thumbnails: Mapping[Place, bytes]) -> str:
    entries = [entry for entry in (finding.entry, *finding.others[:1]) if entry is not None]
    images = "".join(_image(thumbnails.get(entry.place, b""), entry.name) for entry in entries)
    figure = f'<div class="images">{images}</div>' if images else ""
    where = finding.where or (finding.entry.where if finding.entry else "")
    foot = f'<p class="where">{_text(where)}</p>' if where else ""
    captions = finding.entry.captions[:1] if finding.entry else ()
    quote = "".join(f"<q>{_text(caption[:200])}</q>" for caption in captions if caption)
    return f"<article>{figure}<h3>{_text(finding.name)}</h3><p>{_text(finding.detail)}</p>{quote}{foot}</article>"


def _image(jpeg: bytes, name: str) -> str:
    if not jpeg:
        return '<span class="blank" role="img" aria-label="no image">no image</span>'
    data = base64.b64encode(jpeg).decode()
    return f'<img loading="lazy" alt="{_text(name)}" title="{_text(name)}" src="data:image/jpeg;base64,{data}">'


STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#5b6470;--line:#dde1e7;--accent:#2456c7;
--badge:#e6ecfa;--photo:#eceff3}
@media (prefers-color-scheme:dark){:root{--back:#14171b;--card:#1d2127;--ink:#e8eaed;--soft:#9aa4b1;--line:#313842;
--accent:#8fb3ff;--badge:#26334d;--photo:#14171b}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
body{margin:0 auto;max-width:82rem;padding:1.5rem clamp(.9rem,3vw,2.5rem) 4rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:0;line-height:1.25}h1 span{color:var(--soft);font-weight:400}
header p,section>p{color:var(--soft);margin:.3rem 0 1rem;max-width:70ch}header em{color:var(--ink)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin:0 0 1.5rem}
dl div{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.7rem .9rem}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.5rem;font-variant-numeric:tabular-nums}
nav{display:flex;flex-wrap:wrap;gap:.5rem;margin-bottom:1rem}
nav a{display:inline-flex;gap:.5rem;align-items:center;padding:.3rem .4rem .3rem .8rem;border:1px solid var(--line);
border-radius:2rem;background:var(--card);color:var(--ink);text-decoration:none;font-size:.9rem}
nav a:hover,nav a:focus-visible{border-color:var(--accent);color:var(--accent)}
b{font-size:.8rem;font-weight:600;background:var(--badge);color:var(--accent);border-radius:1rem;padding:.05rem .55rem;
font-variant-numeric:tabular-nums}
input{width:min(26rem,100%);padding:.55rem .8rem;font:inherit;color:inherit;background:var(--card);
border:1px solid var(--line);border-radius:.5rem}
input:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
section{margin-top:2.2rem}h2{display:flex;gap:.6rem;align-items:center;font-size:1.2rem;margin:0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(15rem,100%),1fr));gap:.9rem}
article{display:flex;flex-direction:column;background:var(--card);border:1px solid var(--line);border-radius:.6rem;
overflow:hidden;padding-bottom:.75rem}
article>:not(.images){margin:.5rem .8rem 0}article[hidden],section[hidden]{display:none}
h3{font-size:.92rem;font-weight:600;line-height:1.35}article p{font-size:.88rem;line-height:1.45}
.where{color:var(--soft);font-family:ui-monospace,monospace;font-size:.78rem!important}
q{color:var(--soft);font-size:.85rem;font-style:italic;display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;
overflow:hidden}
.images{display:flex;gap:2px;height:9.5rem;background:var(--photo);border-bottom:1px solid var(--line)}
.images>*{flex:1 1 0;min-width:0;height:100%;object-fit:contain}
.blank{display:flex;align-items:center;justify-content:center;color:var(--soft);font-size:.85rem;
background:repeating-linear-gradient(45deg,transparent 0 8px,color-mix(in srgb,var(--line) 55%,transparent) 8px 16px)}
.more{font-size:.9rem}.good{font-size:1.2rem}
@media print{nav,input{display:none}article{break-inside:avoid}}
"""
SCRIPT = """
const field = document.getElementById("filter");
if (field) field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let any = false;
  for (const section of document.querySelectorAll("section")) {
    let some = false;
    for (const card of section.querySelectorAll("article")) {
      const text = card.textContent.toLowerCase();
      card.hidden = !words.every((word) => text.includes(word));
      some ||= !card.hidden;
    }
    section.hidden = !some;
    any ||= some;
  }
  document.getElementById("none").hidden = any;
});
"""
