"""The columns that tables share: one way to show a time, a price, a quantity, a profit, a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.client import Row
from engine.model.codes import CODES
from gui import formatting as fmt
from gui.table_model import Column

ORDER_TONES = {
    "pending_new": "muted", "new": "accent", "partially_filled": "accent", "filled": "pos",
    "pending_cancel": "warn", "canceled": "muted", "replaced": "muted", "rejected": "crit",
    "denied": "crit", "expired": "muted", "unknown": "warn",
}  # fmt: skip
ORDER_MARKS = {
    "pending_new": "○", "new": "●", "partially_filled": "◐", "filled": "✓", "pending_cancel": "○",
    "canceled": "–", "replaced": "–", "rejected": "✕", "denied": "✕", "expired": "–", "unknown": "?",
}  # fmt: skip
SIGNAL_TONES = {
    "accepted": "pos", "held": "warn", "refused": "crit", "rejected": "muted", "expired": "muted",
}  # fmt: skip
OUTCOME_TONES = {
    "sent": "pos", "skipped": "muted", "refused": "crit", "held": "warn", "unknown": "warn", "pending": "accent",
}  # fmt: skip
SIDE_TONES = {
    "buy": "gain",
    "sell": "loss",
    "close": "accent",
    "cancel": "warn",
    "modify": "accent",
}


def _of(
    more: dict[str, Any], key: str, title: str, width: int, kind: str = "text", **own: Any
) -> Column:
    """Return a column of one field; it stays one unless what a table gives besides (``more``) looks at others."""
    alone = not more.keys() & {"text", "tone", "bar"}
    return Column(key, title, width, alone=alone, **{"kind": kind, **own, **more})


def text(key: str, title: str, width: int, **more: Any) -> Column:
    """Return a column of plain text."""
    return _of(more, key, title, width)


def quiet(key: str, title: str, width: int, **more: Any) -> Column:
    """Return a column of plain text in muted ink."""
    return _of(more, key, title, width, tone=lambda _row: "muted")


def stamp(key: str, title: str, **more: Any) -> Column:
    """Return a column of times of day; the tooltip has the date."""
    return _of(
        more,
        key,
        title,
        70,
        text=lambda row: fmt.Times.clock(row.get(key)),
        tone=lambda _row: "muted",
        tip=lambda row: fmt.Times.full(row.get(key)),
    )


def price(key: str, title: str, width: int = 84, **more: Any) -> Column:
    """Return a column of prices."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: fmt.price(row.get(key)),
    )


def average(key: str, title: str, width: int = 84, **more: Any) -> Column:
    """Return a column of average prices, shortened; the tooltip has every decimal."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: fmt.average_price(row.get(key)),
        tip=lambda row: fmt.price(row.get(key)),
    )


def quantity(key: str, title: str, width: int = 76, **more: Any) -> Column:
    """Return a column of quantities, shortened; the tooltip has every decimal."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: fmt.short_quantity(row.get(key)),
        tip=lambda row: fmt.quantity(row.get(key)),
        total="symbol",
    )


def money(key: str, title: str, width: int = 96, **more: Any) -> Column:
    """Return a column of amounts."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: fmt.money(row.get(key)),
        total="all",
    )


def pnl(key: str, title: str, width: int = 92, **more: Any) -> Column:
    """Return a column of profits and losses: sign and colour together."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: fmt.pnl(row.get(key)),
        tone=lambda row: fmt.tone_of(row.get(key)),
        total="all",
    )


def count(key: str, title: str, width: int = 52, tone: str = "", **more: Any) -> Column:
    """Return a column of counts; zero is a faint dot, anything else in ``tone``."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: fmt.quiet_count(row.get(key)),
        tone=lambda row: tone if row.get(key) else "muted",
        total="all",
    )


def micros(key: str, title: str, width: int = 76, **more: Any) -> Column:
    """Return a column of latencies."""
    return _of(
        more,
        key,
        title,
        width,
        "number",
        text=lambda row: "" if row.get(key) is None else fmt.micros(row.get(key)),
        tone=lambda _row: "muted",
    )


def side(key: str = "side", title: str = "Side", width: int = 70, **more: Any) -> Column:
    """Return a column of sides or actions with their arrow."""
    return _of(
        more,
        key,
        title,
        width,
        text=lambda row: fmt.side(row.get(key)),
        tone=lambda row: SIDE_TONES.get(str(row.get(key)), ""),
    )


def chip(
    key: str, title: str, width: int, tones: dict[str, str], marks: dict[str, str] | None = None
) -> Column:
    """Return a column of states, each a chip with a word, a mark and a tone."""

    def write(row: Row) -> str:
        value = row.get(key)
        if not value:
            return ""
        mark = (marks or {}).get(str(value), "")
        return f"{mark} {fmt.words(value)}" if mark else fmt.words(value)

    return Column(
        key,
        title,
        width,
        "chip",
        text=write,
        tone=lambda row: tones.get(str(row.get(key)), ""),
        alone=True,
    )


def code(key: str = "code", title: str = "Reason", width: int = 130) -> Column:
    """Return a column of codes: the short title shown, the explanation and the sentence in the tooltip."""
    return Column(
        key,
        title,
        width,
        text=lambda row: code_title(row.get(key)),
        tone=lambda _row: "muted",
        alone=True,
        tip=explain,
        about="Why not, in a word; hover for the sentence and what it means.",
    )


def note() -> Column:
    """Return the column of notes: a pen and the tags; the tooltip has the text."""
    return Column(
        "note",
        "Note",
        70,
        text=note_mark,
        tone=lambda _row: "accent",
        tip=lambda row: "\n".join(
            part for part in (str(row.get("note") or ""), note_tags(row)) if part
        ),
        about="What somebody wrote down about it; Shift+N writes, hover reads.",
    )


def note_tags(row: Row) -> str:
    """Return the tags of a row."""
    return ", ".join(row.get("tags") or ())


def note_mark(row: Row) -> str:
    """Return what a table shows of a note."""
    tags = note_tags(row)
    return f"✎ {tags}".rstrip() if row.get("note") or tags else ""


def code_title(value: object) -> str:
    """Return the words for a code."""
    found = CODES.get(str(value or ""))
    return found.title if found else str(value or "")


def explain(row: Row) -> str:
    """Return code, the engine's own sentence and the code's meaning."""
    name = str(row.get("code") or "")
    said = str(row.get("message") or row.get("text") or "")
    found = CODES.get(name)
    parts = [name, said, found.explanation if found else ""]
    if found and found.soft:
        parts.append("An operator may force it.")
    return "\n".join(part for part in parts if part)


def in_about(milliseconds: int) -> str:
    """Return how soon something leaves: ``at once``, ``0.4 s``."""
    return "at once" if milliseconds < 50 else fmt.age(milliseconds / 1000)


def leaving(milliseconds: int | None, cold: int | None, orders: int, *, part: bool = False) -> str:
    """Return when the last of some held orders would leave, as a sentence; ``part``: the time is that of more orders.

    ``cold``: how many of their accounts have no free connection now, ``None`` where that is not known.
    """
    if milliseconds is None:
        return ""
    soon = in_about(milliseconds)
    what = "The order leaves" if orders == 1 else f"The last of {orders} orders leaves"
    when = soon if soon == "at once" else f"in {'at most' if part else 'about'} {soon}"
    lack = (
        f"; {cold} account{'s have' if cold != 1 else ' has'} no free connection now"
        if cold
        else ""
    )
    return f"{what} {when}{lack}"


def drift_text(row: Row) -> str:
    """Return a held signal's drift since it came: sign and percent, marked where it is beyond the band."""
    drift = fmt.number(row.get("drift_percent"))
    if drift is None:
        return ""
    mark = "⚠ " if row.get("drifted") else ""
    return f"{mark}{fmt.percent(row['drift_percent'])}"


def drift_sentence(row: Row) -> str:
    """Return the same as a sentence, empty where it is not known."""
    if row.get("drift_percent") is None:
        return ""
    beyond = " Beyond the band: approving confirms this price." if row.get("drifted") else ""
    return (
        f"{row.get('symbol')} is at {fmt.price(row.get('mark'))}, {drift_text(row)} since the signal came at"
        f" {fmt.price(row.get('price'))}.{beyond}"
    )


def working(row: Row) -> bool:
    """Say whether an order may still fill and is known to be at the broker."""
    return row.get("status") in {"pending_new", "new", "partially_filled"}


def aged(
    key: str, title: str, store_age: Callable[[str | None], float | None], full: float = 60.0
) -> Column:
    """Return a column of ages with a bar that is full when fresh and empty after ``full`` seconds."""

    def share(row: Row) -> float | None:
        seconds = store_age(row.get(key))
        return None if seconds is None else max(0.0, 1.0 - seconds / full)

    return Column(
        key + ".age",
        title,
        66,
        "bar",
        text=lambda row: fmt.age(store_age(row.get(key))),
        raw=lambda row: fmt.epoch(row.get(key)),
        tone=lambda row: "accent" if (share(row) or 0) > 0 else "muted",
        bar=share,
        tip=lambda row: fmt.Times.full(row.get(key)),
        live=True,
        measure=lambda row: store_age(row.get(key)),
        about="Since it came in; the bar is full when fresh and empty after a minute.",
    )
