"""A sampling profiler around a run, and its samples as a flame graph: one SVG file that any browser shows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Final

from engine.errors import TradingError

if TYPE_CHECKING:
    from types import TracebackType

    from pyinstrument.frame import Frame
    from pyinstrument.session import Session

INTERVAL_S: Final = 0.001
_WIDTH: Final = 1200.0
_ROW: Final = 17
_HEAD: Final = 44
_LETTER: Final = 6.6  # of the monospaced face at 11 px
_NARROWEST: Final = 0.3  # what is narrower is not drawn
_FILLS: Final = {"engine": "#f4a259", "asyncio": "#b8c4d0", "": "#9bc4e2"}
_LEGEND: Final = "orange: engine; grey: the event loop; blue: libraries. A click zooms, on the lowest row out again."
_LOOP: Final = ("asyncio", "selectors", "<built-in>")
_WAITS: Final = frozenset(
    {"run", "run_forever", "_run_once", "select", "epoll.poll", "kqueue.control"}
)
"""What the event loop waits in, with uvloop its caller."""


@dataclass(slots=True)
class Node:
    """A function on one way from the root, with the seconds spent in it and in all it called."""

    name: str
    place: str
    waits: bool = False
    seconds: float = 0.0
    own: float = 0.0
    children: dict[tuple[str, str], Node] = field(default_factory=dict)

    def share(self, whole: float) -> str:
        """Return its part of ``whole`` seconds, for people."""
        return f"{100 * self.seconds / whole:.1f} %" if whole else "-"


class Profiled:
    """Samples this thread's stack while it is entered; the event loop's thread is the one that trades."""

    def __init__(self) -> None:
        try:
            from pyinstrument import Profiler
        except ImportError:
            raise TradingError("the profiler is not installed: pip install pyinstrument") from None
        # Off: what a coroutine waits for is no work, and a flame graph shows work.
        self._profiler = Profiler(interval=INTERVAL_S, async_mode="disabled")
        self._session: Session | None = None

    def __enter__(self) -> Profiled:
        self._profiler.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._session = self._profiler.stop()

    def tree(self) -> Node:
        """Return all samples as one tree, equal ways together.

        The time in which the event loop waited is no part of it.
        """
        root = Node("all", "")
        frame = self._session.root_frame() if self._session is not None else None
        if frame is not None:
            _grow(root, frame)
        root.seconds = _settle(root)
        return root

    def figures(self) -> dict[str, Any]:
        """Return seconds sampled, samples, and this process's CPU seconds meanwhile."""
        session = self._session
        assert session is not None
        return {
            "seconds": round(session.duration, 3),
            "samples": session.sample_count,
            "cpu_seconds": round(session.cpu_time, 3),
        }


def _grow(parent: Node, frame: Frame) -> None:
    """Add a frame and what it called below ``parent``."""
    if frame.is_synthetic:  # its own time
        parent.own += 0.0 if parent.waits else frame.time
        return
    name = f"{frame.class_name}.{frame.function}" if frame.class_name else frame.function
    file = frame.file_path_short or ""
    place = f"{file}:{frame.line_no}" if frame.line_no else file
    waits = frame.function in _WAITS and file.startswith(_LOOP)
    node = parent.children.setdefault((name, place), Node(name, place, waits))
    for child in frame.children:
        _grow(node, child)
    if not frame.children and not waits:
        node.own += frame.time


def _settle(node: Node) -> float:
    """Sum up each node's seconds from below; without those that only waited."""
    node.seconds = node.own + sum(_settle(child) for child in node.children.values())
    node.children = {key: child for key, child in node.children.items() if child.seconds > 0}
    return node.seconds


def hottest(root: Node, count: int) -> list[dict[str, Any]]:
    """Return the functions with most time of their own."""
    own: dict[tuple[str, str], float] = {}
    for node, _depth, _left in _walk(root):
        own[node.name, node.place] = own.get((node.name, node.place), 0.0) + node.own
    ranked = sorted(own.items(), key=lambda entry: -entry[1])[:count]
    return [
        {
            "function": name,
            "place": place,
            "own_ms": round(seconds * 1e3, 1),
            "percent": round(100 * seconds / root.seconds, 1) if root.seconds else 0.0,
        }
        for (name, place), seconds in ranked
        if seconds
    ]


def _walk(root: Node) -> Iterator[tuple[Node, int, float]]:
    """Yield every node with its depth and the seconds that lie left of it."""
    waiting = [(root, 0, 0.0)]
    while waiting:
        node, depth, left = waiting.pop()
        yield node, depth, left
        for child in sorted(node.children.values(), key=lambda one: (one.name, one.place)):
            waiting.append((child, depth + 1, left))
            left += child.seconds


def as_svg(root: Node, title: str) -> str:
    """Return the flame graph: wider is longer, above is called; a click zooms, the pointer tells more."""
    scale = _WIDTH / root.seconds if root.seconds else 0.0
    shown = [entry for entry in _walk(root) if entry[0].seconds * scale >= _NARROWEST]
    rows = 1 + max((depth for _, depth, _ in shown), default=0)
    height = _HEAD + rows * _ROW + 8
    boxes = "\n".join(
        _box(
            node, height - 8 - (depth + 1) * _ROW, left * scale, node.seconds * scale, root.seconds
        )
        for node, depth, left in shown
    )
    return _PAGE.format(
        legend=_LEGEND,
        width=_WIDTH,
        height=height,
        title=escape(title),
        boxes=boxes,
        row=_ROW,
        letter=_LETTER,
    )


def _box(node: Node, top: int, left: float, width: float, whole: float) -> str:
    kind = next((kind for kind in ("engine", "asyncio") if node.place.startswith(kind)), "")
    where = f" ({node.place})" if node.place else ""
    told = f"{node.name}{where}: {node.seconds * 1e3:.1f} ms, {node.share(whole)}"
    letters = int((width - 4) / _LETTER)
    label = node.name if len(node.name) <= letters else node.name[: max(0, letters - 1)] + "…"
    text = escape(label) if letters >= 3 else ""
    return (
        f'<g class="f" data-x="{left:.2f}" data-w="{width:.2f}" data-n="{escape(node.name)}">'
        f"<title>{escape(told)}</title>"
        f'<rect x="{left:.2f}" y="{top}" width="{width:.2f}" height="{_ROW - 1}" fill="{_FILLS[kind]}"/>'
        f'<text x="{left + 2:.2f}" y="{top + 12}">{text}</text></g>'
    )


_PAGE: Final = textwrap.dedent(
    """\
    <?xml version="1.0" encoding="UTF-8"?>
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}">
    <style>
      text {{ font: 11px monospace; fill: #1b1b1b; pointer-events: none }}
      .f {{ cursor: pointer }} .f rect:hover {{ stroke: #1b1b1b }} .out {{ display: none }}
    </style>
    <rect width="100%" height="100%" fill="#ffffff"/>
    <text x="8" y="18" style="font-size:14px">{title}</text>
    <text x="8" y="35">{legend}</text>
    {boxes}
    <script><![CDATA[
      const all = [...document.querySelectorAll(".f")], whole = {width:g};
      function zoom(from, wide) {{
        for (const g of all) {{
          const x = +g.dataset.x, w = +g.dataset.w;
          const left = Math.max(0, (x - from) / wide * whole);
          const right = Math.min(whole, (x + w - from) / wide * whole);
          g.classList.toggle("out", right - left < 0.3);
          const [, box, text] = g.children, room = Math.floor((right - left - 4) / {letter});
          box.setAttribute("x", left); box.setAttribute("width", Math.max(0, right - left));
          text.setAttribute("x", left + 2);
          const name = g.dataset.n;
          text.textContent = room < 3 ? "" : name.length <= room ? name : name.slice(0, room - 1) + "\\u2026";
        }}
      }}
      for (const g of all) g.addEventListener("click", () => zoom(+g.dataset.x, +g.dataset.w));
    ]]></script>
    </svg>
    """
)
