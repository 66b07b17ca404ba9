"""A page of our own HTML as PDF; its plots become pictures, sharp enough for paper."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from PySide6.QtCore import QByteArray, QMarginsF, QSizeF, Qt, QUrl
from PySide6.QtGui import (
    QGuiApplication,
    QImage,
    QPageLayout,
    QPageSize,
    QPainter,
    QPdfWriter,
    QTextDocument,
)
from PySide6.QtSvg import QSvgRenderer

_PLOT: Final = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_SHARP: Final = 3  # pixels a point
_DPI: Final = 150
_SHEET: Final = "td,th{font-size:7.5pt}p,body{font-size:9pt}h1{font-size:15pt}h2{font-size:11pt}"


def document_of(html: str, width: float) -> QTextDocument:
    """Return a document of a page; ``width`` in the document's units (pixels) for its plots."""
    document = QTextDocument()
    plots: list[QImage] = []

    def put(found: re.Match[str]) -> str:
        plots.append(_picture(found[0]))
        image = plots[-1]
        high = round(width * image.height() / image.width())
        return f'<img src="plot:{len(plots) - 1}" width="{round(width)}" height="{high}">'

    page = _PLOT.sub(put, html).replace("line-height:1.45", "")  # it would hold for plots, too
    for at, image in enumerate(plots):
        document.addResource(
            QTextDocument.ResourceType.ImageResource.value, QUrl(f"plot:{at}"), image
        )
    document.setDefaultStyleSheet(_SHEET)
    document.setHtml(page)
    return document


def write_pdf(html: str, path: Path) -> None:
    """Write a page of ours as PDF (A4, portrait).

    Raises:
        OSError: the file cannot be written.
    """
    app = QGuiApplication.instance()
    if app is None:  # in a shell, without a desk and perhaps without a display
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        app = QGuiApplication([])
    with path.open("ab"):  # says what is wrong with it; Qt would only warn
        pass
    writer = QPdfWriter(str(path))
    writer.setResolution(_DPI)
    writer.setCreator("Volley")
    layout = QPageLayout(
        QPageSize(QPageSize.PageSizeId.A4),
        QPageLayout.Orientation.Portrait,
        QMarginsF(12, 12, 12, 14),
        QPageLayout.Unit.Millimeter,
    )
    writer.setPageLayout(layout)
    room = QSizeF(writer.width(), writer.height())
    document = document_of(html, room.width() * 0.99)
    document.documentLayout().setPaintDevice(writer)
    document.setPageSize(room)
    document.print_(writer)
    if not path.stat().st_size:
        raise OSError(f"{path}: cannot be written")


def _picture(svg: str) -> QImage:
    renderer = QSvgRenderer(QByteArray(svg.encode()))
    size = renderer.defaultSize() * _SHARP
    image = QImage(size, QImage.Format.Format_ARGB32_Premultiplied)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    renderer.render(painter)
    painter.end()
    return image
