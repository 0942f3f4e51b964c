"""HTML pages that need nothing beside themselves: tables that sort, players; for screens, light or dark, and for paper."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from champ_jax.pose.skeleton import COLOURS, LIMBS

SHOWN_LEAST = 240
"""Pixels of height at which a player shows its frames at least."""
Cell = Any
"""Of a table: text, a number, or (what is shown, the value it is sorted by, a class such as "good")."""


def page(title: str, facts: str, sections: Sequence[str]) -> str:
    """A whole page of HTML: heading, a line of facts, and sections of HTML."""
    style, script = (files("champ_jax.evaluate").joinpath(name).read_text() for name in ("page.css", "page.js"))
    shared = {"limbs": LIMBS.tolist(), "colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in COLOURS]}
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><link rel=icon href='data:,'><style>{style}</style>"
        f"<h1>{html.escape(title)}</h1><p class=facts>{html.escape(facts)}</p>{''.join(sections)}"
        f"<script type=application/json id=shared>{embedded(shared)}</script><script>{script}</script></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is below it; "" when there is nothing."""
    body = "".join(parts)
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def row(parts: Sequence[str]) -> str:
    """Parts side by side, as far as the page is wide."""
    return f"<div class=row>{''.join(parts)}</div>" if parts else ""


def embedded(value: Any) -> str:
    """JSON inside a script element."""
    return json.dumps(value, allow_nan=False).replace("</", "<\\/")


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "", text: Sequence[int] = ()) -> str:
    """A table that sorts by any column; `text` are the columns of running text. Numbers of no given form have three decimals."""
    if not rows:
        return ""

    def cell(value: Cell, number: int) -> str:
        shown, key, kind = value if isinstance(value, tuple) else (value, value, "")
        key = "" if isinstance(key, float) and math.isnan(key) else key
        if isinstance(shown, float):
            shown = "" if math.isnan(shown) else f"{shown:.3f}"
        classes = " ".join(filter(None, [kind, "text" if number in text else ""]))
        sort = f" data-value='{html.escape(str(key), quote=True)}'" if isinstance(key, (int, float)) or key == "" else ""
        return f"<td{f' class={chr(39)}{classes}{chr(39)}' if classes else ''}{sort}>{html.escape(str(shown))}</td>"

    head = "".join(
        f"<th scope=col{' class=text' if i in text else ''}><button type=button>{html.escape(name)}</button></th>"
        for i, name in enumerate(header)
    )
    body = "".join("<tr>" + "".join(cell(value, i) for i, value in enumerate(values)) + "</tr>" for values in rows)
    about = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<div class=wide><table>{about}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def data_url(data: bytes, kind: str) -> str:
    """The bytes of a file of a media type, as an address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(data: bytes, caption: str) -> str:
    """A PNG image with what it shows."""
    caption, source = html.escape(caption, quote=True), data_url(data, "image/png")
    return f"<figure><img src='{source}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def video(data: bytes, caption: str) -> str:
    """An mp4 video with its own controls."""
    source = data_url(data, "video/mp4")
    return f"<figure><video controls loop width=384 src='{source}'></video><figcaption>{html.escape(caption)}</figcaption></figure>"


def player(title: str, data: bytes, about: Mapping[str, Any], caption: str = "") -> str:
    """A clip beside its reference, with difference and skeletons.

    data: an mp4 video whose frames are the generated ones and, if about["reference"], the true ones on their right. about: width and
    height of one of them, frames, fps, and poses {view: [[x, y] or null of 18 joints, for each frame]}.
    """
    views = {"generated": "generated"}
    if about["reference"]:
        views |= {"reference": "reference", "difference": "difference, 4 times"}
    # Small frames are enlarged to be seen; the canvas keeps their pixels.
    wide = round(about["width"] * max(about["height"], SHOWN_LEAST) / about["height"])
    size = f"width={about['width']} height={about['height']} style='width:{wide}px'"
    canvases = "".join(
        f"<figure><canvas data-view={view} {size}></canvas><figcaption>{name}</figcaption></figure>" for view, name in views.items()
    )
    skeleton = "<label><input type=checkbox data-option=skeleton> skeleton</label>" if about.get("poses") else ""
    speeds = "".join(f"<option value={s}{' selected' if s == 1 else ''}>{s}x</option>" for s in (0.25, 0.5, 1, 2))
    return (
        f"<div class=player tabindex=0><h3>{html.escape(title)}</h3><video muted loop playsinline hidden preload=auto "
        f"src='{data_url(data, 'video/mp4')}'></video>{row([canvases])}<div class=controls><button type=button class=play>Play</button>"
        f"<input type=range min=0 max={about['frames'] - 1} value=0 aria-label=frame><output></output>{skeleton}"
        f"<label>speed <select data-option=speed>{speeds}</select></label></div><p class=soft>{html.escape(caption)}</p>"
        f"<script type=application/json>{embedded(dict(about))}</script></div>"
    )
