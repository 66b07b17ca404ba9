"""Logging: nothing secret, nothing that fakes a line, nothing that waits."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import queue
import stat
import threading
from decimal import Decimal
from urllib.parse import quote, quote_plus

import pytest

from engine import log
from engine.config import LogConfig

CANARY = "c4nary/S3cret+%=\"quoted'\\é"


@pytest.fixture
def redactor(monkeypatch):
    fresh = log.Redactor()
    monkeypatch.setattr(log, "redact", fresh.clean)
    return fresh


@pytest.fixture
def writing(tmp_path, monkeypatch):
    """Give a function that runs a block under ``setup`` and returns the lines written."""

    @contextlib.contextmanager
    def run(**settings):
        # The test runner's own handlers on the root would format every record at once.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        path = tmp_path / "logs" / "engine.log"
        stop = log.setup(LogConfig(**settings), path)
        lines = []
        try:
            yield lines
        finally:
            stop()
            if path.exists():
                lines += path.read_text("utf-8").splitlines()

    return run


logger = logging.getLogger("engine.test")


def test_json_lines_with_extras(writing):
    with writing() as lines:
        logger.info("sent %d of %s", 3, Decimal("5.5"), extra={"account": "A-1", "n": 2})
        logger.debug("not at this level")
    row = json.loads(lines[0])
    assert len(lines) == 1
    assert row["text"] == "sent 3 of 5.5"
    assert (row["level"], row["area"], row["account"], row["n"]) == ("INFO", "test", "A-1", 2)
    assert row["at"].endswith("Z")


def test_text_lines(writing):
    with writing(format="text", level="DEBUG") as lines:
        logger.debug("hello", extra={"account": "A-1"})
        try:
            raise ValueError("no\n2026-01-01 00:00:00.000Z INFO     forged: line")
        except ValueError:
            logger.exception("failed")
    assert lines[0].endswith("DEBUG    test: hello account=A-1")
    assert "ERROR    test: failed" in lines[1]
    assert all(line.startswith("    | ") for line in lines[2:])
    assert any("forged" in line for line in lines[2:])


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "bad", ["\r", "\n", "\x1b[31m", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"]
)
def test_control_characters_are_escaped(writing, form, bad):
    with writing(format=form) as lines:
        logger.warning("a%sb", bad, extra={"symbol": f"x{bad}y"})
    assert len(lines) == 1
    assert bad not in lines[0]
    assert lines[0].isprintable()
    if form == "json":
        assert json.loads(lines[0])["text"] == f"a{bad}b"


def test_odd_arguments_do_not_lose_the_line(writing):
    with writing() as lines:
        logger.warning("%d items", "three")
        logger.warning("no placeholder", "extra")  # noqa: PLE1205
        logger.warning({"a": 1})
    assert [json.loads(line)["level"] for line in lines] == ["WARNING"] * 3
    assert "three" in lines[0]


def test_an_object_is_written_as_it_was(writing):
    items = [1]
    with writing() as lines:
        for _ in range(50):
            logger.info("%s", items)
            items.append(1)
    assert [len(json.loads(json.loads(line)["text"])) for line in lines] == list(range(1, 51))


# Secrets.


def forms(secret: str) -> dict[str, str]:
    raw = secret.encode()
    return {
        "raw": secret,
        "url": quote(secret, safe=""),
        "url path": quote(secret),
        "form": quote_plus(secret),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "base64": base64.b64encode(raw).decode(),
        "base64 url": base64.urlsafe_b64encode(raw).decode(),
        "basic auth": base64.b64encode(b"user:" + raw + b"!").decode(),
        "basic auth 2": base64.b64encode(b"me:" + raw + b"??").decode(),
        "basic auth 3": base64.b64encode(b"a:" + raw).decode(),
        "basic auth 4": base64.urlsafe_b64encode(b"u" + raw + b"?").decode(),
        "json": json.dumps(secret)[1:-1],
        "repr": repr(secret)[1:-1],
    }


@pytest.mark.parametrize("secret", [CANARY, "plain-token_0123456789", "pw1234"])
@pytest.mark.parametrize("form", list(forms(CANARY)))
def test_a_secret_is_taken_out_of_every_form(redactor, secret, form):
    redactor.register(secret)
    written = forms(secret)[form]
    cleaned = redactor.clean(f"before {written} after")
    left = cleaned.removeprefix("before ").removesuffix(" after").split("***")
    assert len(left) == 2, cleaned
    # Only what its neighbours put into the same base64 may be left.
    assert sum(map(len, left)) <= (
        12 if "a" in form and ("base64" in form or "auth" in form) else 0
    )


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_canary_reaches_the_file(writing, redactor, form):
    redactor.register(CANARY)
    leaks = forms(CANARY)
    with writing(format=form) as lines:
        for name, written in leaks.items():
            logger.warning(written.replace("%", "%%"))
            logger.warning(
                "%s: %s", name, written, extra={"url": f"https://x/{written}", "k" + written: 1}
            )
            logger.warning("%r", {"token": written})
            try:
                raise RuntimeError(written) from KeyError(written)
            except RuntimeError:
                logger.exception("it failed", stack_info=True)
    whole = "\n".join(lines)
    assert "***" in whole
    for name, written in leaks.items():
        assert written not in whole, name
        assert json.dumps(written)[1:-1] not in whole, name


def test_short_words_are_not_secrets(redactor):
    redactor.register("abc")
    redactor.register("")
    assert redactor.clean("abc abc") == "abc abc"


def test_of_two_secrets_that_begin_alike_the_longer_goes_whole(redactor):
    redactor.register("alpha-beta")
    redactor.register("alpha-beta-gamma")
    assert redactor.clean("x alpha-beta-gamma y alpha-beta") == "x *** y ***"


def test_thousands_of_secrets_stay_cheap(redactor):
    for index in range(2000):
        redactor.register(f"secret-number-{index:05d}-{index * 7919:x}")
    text = "an ordinary line about an order of 100 AAPL at 189.43 " * 10
    assert redactor.clean(text) == text
    assert redactor.clean("secret-number-01999-" + f"{1999 * 7919:x}") == "***"


def test_libraries_do_not_log_their_urls(writing):
    with writing(level="DEBUG") as lines:
        logging.getLogger("httpx").info("HTTP Request: POST https://x/v1/hooks/tv/c4nary")
        logging.getLogger("uvicorn.access").info("POST /v1/hooks/tv/c4nary")
        logging.getLogger("httpcore.http11").debug("Authorization: c4nary")
    assert lines == []


# The queue, the file.


def test_a_full_queue_drops_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "QUEUE_SIZE", 5)
    path = tmp_path / "engine.log"
    stop = log.setup(LogConfig(), path)
    gate, entered = threading.Event(), threading.Event()
    (file,) = [h for h in logging.getLogger().handlers if isinstance(h, log._Queue)]
    write = log._File.emit

    def slow(self, record):
        entered.set()
        gate.wait(10)
        write(self, record)

    monkeypatch.setattr(log._File, "emit", slow)
    try:
        logger.info("first")
        assert entered.wait(10)
        for index in range(20):
            logger.info("line %d", index)
        assert log.dropped_records() == file.dropped == 15
    finally:
        gate.set()
        stop()
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert "15 log records were dropped: the queue was full" in texts
    assert len(texts) == 1 + 5 + 1
    assert log.dropped_records() == 0


def test_the_file_rotates_and_is_private(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "MAX_BYTES", 2000)
    path = tmp_path / "logs" / "engine.log"
    stop = log.setup(LogConfig(), path)
    for index in range(200):
        logger.info("line %d", index)
    stop()
    files = sorted(p.name for p in path.parent.iterdir())
    assert files == ["engine.log", *(f"engine.log.{n}" for n in range(1, 6))]
    assert all(p.stat().st_size <= 2000 for p in path.parent.iterdir())
    if os.name == "posix":
        assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_stop_puts_logging_back(tmp_path):
    root = logging.getLogger()
    handlers, level, quiet = list(root.handlers), root.level, logging.getLogger("httpx").level
    threads = set(threading.enumerate())
    stop = log.setup(LogConfig(level="DEBUG"), tmp_path / "a" / "engine.log")
    assert root.level == logging.DEBUG
    stop()
    stop()
    assert root.handlers == handlers
    assert (root.level, logging.getLogger("httpx").level) == (level, quiet)
    assert set(threading.enumerate()) == threads


def test_a_disk_that_refuses_is_told_once(tmp_path, capsys):
    path = tmp_path / "engine.log"
    path.mkdir()
    stop = log.setup(LogConfig(), path)
    for _ in range(10):
        logger.info("x")
    stop()
    assert capsys.readouterr().err.count("cannot write") == 1


def test_warnings_reach_a_terminal(tmp_path, monkeypatch):
    class Terminal:
        text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    monkeypatch.setattr(log.sys, "stderr", terminal)
    stop = log.setup(LogConfig(), tmp_path / "engine.log")
    logger.info("quiet")
    logger.warning("loud\x1b[2J")
    stop()
    assert "quiet" not in terminal.text
    assert "WARNING  test: loud\\x1b[2J\n" in terminal.text


def test_logging_costs_the_caller_no_formatting(writing):
    formatted_in = []

    class Price(Decimal):
        def __str__(self):
            formatted_in.append(threading.current_thread())
            return super().__str__()

    with writing():
        logger.info("at %s", Price("1.5"))
    assert formatted_in
    assert threading.current_thread() not in formatted_in


def test_a_queue_that_is_full_never_raises():
    records: queue.Queue[logging.LogRecord] = queue.Queue(1)
    handler = log._Queue(records)
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert handler.dropped == 2
    handler.close()
