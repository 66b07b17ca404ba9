"""Structured logging off the loop, with secrets taken out before anything is written.

A caller only puts a record into a bounded queue; one thread formats, redacts and writes. A full
queue drops and counts: logging never holds up an order.
"""

from __future__ import annotations

import base64
import json
import logging
import logging.handlers
import os
import queue
import re
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, quote_plus

from engine import failpoints

MAX_BYTES: Final = 10 * 1024 * 1024
BACKUPS: Final = 5
QUEUE_SIZE: Final = 10_000
MASK: Final = "***"
_MIN_SECRET = 4  # shorter ones would blot out ordinary words
_MIN_ENCODED = 6
_PLAIN_TYPES = (str, int, float, Decimal, Enum, type(None))
# Libraries whose lower levels print URLs, headers or bodies.
_QUIET = ("httpx", "httpcore", "uvicorn", "websockets", "pymongo", "asyncio", "hpack", "redis")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


class LogSettings(Protocol):
    """What ``setup`` needs of the configuration's ``[log]``."""

    @property
    def level(self) -> str:
        """Return the lowest level that is written."""
        ...

    @property
    def format(self) -> str:
        """Return ``json`` or ``text``."""
        ...


class Redactor:
    """Replaces registered secrets by ``***``, also in their URL, base64, hex and quoted forms."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[str, ...]] = {}  # first four characters → forms, longest first
        self._lock = threading.Lock()

    def register(self, secret: str) -> None:
        """Take ``secret`` out of everything from now on; fewer than 4 characters cannot be."""
        if len(secret) < _MIN_SECRET:
            return
        with self._lock:
            forms = dict(self._forms)
            for form in _forms(secret):
                known = {*forms.get(form[:_MIN_SECRET], ()), form}
                forms[form[:_MIN_SECRET]] = tuple(sorted(known, key=len, reverse=True))
            self._forms = forms  # readers see the old table or the new one

    def clean(self, text: str) -> str:
        """Return ``text`` without any registered secret."""
        forms = self._forms
        if not forms:
            return text
        out, copied, i, end = [], 0, 0, len(text) - _MIN_SECRET + 1
        while i < end:
            for form in forms.get(text[i : i + _MIN_SECRET], ()):
                if text.startswith(form, i):
                    out += [text[copied:i], MASK]
                    i = copied = i + len(form)
                    break
            else:
                i += 1
        return "".join(out) + text[copied:] if out else text


def _forms(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogatepass")
    percent = quote(raw, safe="")
    lower = re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), percent)
    forms = {secret, percent, lower, quote(raw), quote_plus(raw)}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {repr(secret)[1:-1], ascii(secret)[1:-1], raw.hex(), raw.hex().upper()}
    # In base64 a secret looks different at each of three offsets ("user:secret"); the characters
    # that also depend on its neighbours are cut off.
    for offset in range(3):
        padded = bytes(offset) + raw
        inner = slice((0, 2, 3)[offset], len(padded) * 8 // 6)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(padded).decode()[inner]
            if len(core) >= _MIN_ENCODED:
                forms.add(core)
    return {form for form in forms if len(form) >= _MIN_SECRET}


_redactor = Redactor()
register_secret = _redactor.register
redact = _redactor.clean


def escape(text: str) -> str:
    """Write control, bidirectional and broken characters as escapes: a log line stays one line."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


class _Formatter(logging.Formatter):
    """The parts of a record, redacted; how they are laid out is the subclass's."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {
            redact(key): _plain(value)
            for key, value in vars(record).items()
            if key not in _STANDARD and not key.startswith("_")
        }
        trace = ""
        if record.exc_info and record.exc_info[0]:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        elif record.exc_text:
            trace = record.exc_text
        if record.stack_info:
            trace = f"{trace}\n{record.stack_info}".strip("\n")
        at = datetime.fromtimestamp(record.created, UTC)
        return self.lay_out(record, at, redact(_message(record)), extra, redact(trace))

    def lay_out(
        self,
        record: logging.LogRecord,
        at: datetime,
        text: str,
        extra: dict[str, Any],
        trace: str,
    ) -> str:
        raise NotImplementedError


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 (arguments that do not fit must not cost the line)
        return f"{record.msg} {record.args!r}"


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(str(value))


class JsonFormatter(_Formatter):
    """One JSON object a line: ``at``, ``level``, ``area``, ``text``, extras, ``traceback``."""

    def lay_out(
        self,
        record: logging.LogRecord,
        at: datetime,
        text: str,
        extra: dict[str, Any],
        trace: str,
    ) -> str:
        """Return the line."""
        row: dict[str, Any] = {
            **extra,
            "at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname,
            "area": record.name.removeprefix("engine."),
            "text": text,
        }
        if trace:
            row["traceback"] = trace
        # ASCII with JSON's own escapes: nothing in it can start a line or drive a terminal.
        return json.dumps(row, ensure_ascii=True, default=str).replace("\x7f", "\\u007f")


class TextFormatter(_Formatter):
    """One line for people; a traceback follows behind bars, so none of it can pose as a record."""

    def lay_out(
        self,
        record: logging.LogRecord,
        at: datetime,
        text: str,
        extra: dict[str, Any],
        trace: str,
    ) -> str:
        """Return the line."""
        stamp = at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
        tail = "".join(f" {escape(key)}={escape(str(value))}" for key, value in extra.items())
        area = record.name.removeprefix("engine.")
        lines = [f"{stamp} {record.levelname:<8} {escape(area)}: {escape(text)}{tail}"]
        lines += [f"    | {escape(line)}" for line in trace.split("\n") if line]
        return "\n".join(lines)


class _Queue(logging.handlers.QueueHandler):
    """Puts records into the queue; never waits, never formats what can be formatted later."""

    def __init__(self, records: queue.Queue[Any]) -> None:
        super().__init__(records)
        self.records = records
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        args = record.args
        if args and not (
            isinstance(args, tuple) and all(isinstance(arg, _PLAIN_TYPES) for arg in args)
        ):
            # An object that may change must be written as it is now.
            copied = logging.makeLogRecord(vars(record))
            copied.msg, copied.args = _message(record), None
            return copied
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.records.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Listener(logging.handlers.QueueListener):
    """Writes what the queue brings, and says when something was dropped."""

    def __init__(self, source: _Queue, *handlers: logging.Handler) -> None:
        super().__init__(source.records, *handlers, respect_handler_level=True)
        self._source = source
        self._told = 0

    def handle(self, record: logging.LogRecord) -> None:
        dropped = self._source.dropped
        if dropped != self._told:
            count, self._told = dropped - self._told, dropped
            text = "%d log records were dropped: the queue was full"
            notice = {"name": "engine.log", "levelno": logging.WARNING, "levelname": "WARNING"}
            super().handle(logging.makeLogRecord({**notice, "msg": text, "args": (count,)}))
        super().handle(record)

    def enqueue_sentinel(self) -> None:
        self._source.records.put(None, timeout=10)  # the thread is draining: there will be room


class _File(logging.handlers.RotatingFileHandler):
    """The rotating file, mode 0600. A full disk is told once and holds nothing up."""

    _told = False

    def _open(self) -> TextIOWrapper:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return TextIOWrapper(os.fdopen(handle, "ab"), encoding="utf-8", line_buffering=True)

    def doRollover(self) -> None:  # noqa: N802 (logging's name)
        if failpoints.ARMED:
            failpoints.hit("log.rotate.before")
        super().doRollover()
        if failpoints.ARMED:
            failpoints.hit("log.rotate.after")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._told and sys.stderr is not None:
            self._told = True
            sys.stderr.write(f"volley: cannot write {self.baseFilename}: {sys.exc_info()[1]}\n")


_active: list[_Queue] = []


def dropped_records() -> int:
    """Return how many records the current set-up had to drop."""
    return sum(handler.dropped for handler in _active)


def setup(settings: LogSettings, path: Path) -> Callable[[], None]:
    """Send everything logged to ``path``, and warnings to a terminal too; return what stops it.

    The returned function writes out what is queued, closes the file and puts logging back as it
    was; it may be called again.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = _File(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
    file.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    handlers: list[logging.Handler] = [file]
    if sys.stderr is not None and sys.stderr.isatty():
        screen = logging.StreamHandler(sys.stderr)
        screen.setLevel(logging.WARNING)
        screen.setFormatter(TextFormatter())
        handlers.append(screen)
    source = _Queue(queue.Queue(QUEUE_SIZE))
    listener = _Listener(source, *handlers)
    root, level = logging.getLogger(), logging.getLevelNamesMapping()[settings.level]
    before = [(logger, logger.level) for logger in (root, *map(logging.getLogger, _QUIET))]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    root.addHandler(source)
    _active.append(source)
    listener.start()

    def stop() -> None:
        if source not in _active:
            return
        _active.remove(source)
        root.removeHandler(source)
        listener.stop()
        for handler in handlers:
            handler.close()
        source.close()
        for logger, former in before:
            logger.setLevel(former)

    return stop
