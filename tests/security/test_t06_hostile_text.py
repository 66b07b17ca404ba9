"""T06, hostile texts: five thousand strings through every entry are refused or kept as the text they are."""

from __future__ import annotations

import json
import logging
import random
import re
from pathlib import Path

import pytest

from engine.errors import CommandRefused, ConfigError, InvalidSignal
from engine.home import Home, hook_secret
from engine.intake.parser import parse_prices, parse_signal
from engine.log import JsonFormatter, TextFormatter, escape
from engine.model.account import Account
from engine.model.commands import parse_command
from engine.model.identifiers import NAME, SYMBOL
from tests.helpers import MONDAY
from tests.processes import paper
from tests.world import eventually, world

SEEDS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<b>bold</b>",
    "&lt;b&gt;",
    "{{7*7}}",
    "${7*7}",
    "#{7*7}",
    "%s%n%x",
    '{"$gt":""}',
    '{"$ne":null}',
    '{"$where":"sleep(9)"}',
    "$where",
    "a.b",
    "__proto__",
    "constructor",
    "' OR '1'='1",
    "'; DROP TABLE signals;--",
    '" UNION SELECT 1--',
    "1;1",
    "../../etc/passwd",
    "..\\..\\windows",
    "/etc/passwd",
    "C:\\x",
    "file:///etc/passwd",
    "~root",
    "a/../b",
    "./a",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "\r\nSet-Cookie: x=1",
    "a\nb",
    "a\rb",
    "a\tb",
    "\x00",
    "a\x00b",
    "\x7f",
    "\x08\x08",
    "\u202eevil",
    "\u2066x\u2069",
    "\u200bzero",
    "\ufeffbom",
    "\u2028line",
    "АAPL",
    "ΑΑPL",
    "AAPL\u0301",
    "ＡＡＰＬ",
    "AAPＬ",
    "𝐀𝐀𝐏𝐋",
    "ﬁ",
    "İ",
    "ß",
    "`id`",
    "$(id)",
    "|id",
    ";id",
    "&&id",
    "-rf",
    "--help",
    "=1+1",
    "@SUM(A1)",
    "+1",
    "-1",
    "\ud800",
    "😀",
    "",
    " ",
    "  AAPL",
    "AAPL ",
    "aapl",
    "A" * 33,
    "A" * 100_000,
    "nan",
    "NULL",
    "None",
    "true",
    "0",
    "-0",
    "1e999",
    "0x10",
    "१२३",
    "٣",
    "CON",
    "NUL",
    "COM1",
    "a:b",
    "a|b",
    "a*b",
    "a?b",
    "%00",
    "%2e%2e",
]
GOOD = re.compile(r"\A[A-Z0-9][A-Z0-9._:/-]{0,31}\Z", re.ASCII)
COUNT = 5_000


def corpus() -> list[str]:
    """Return five thousand: the seeds, and pieces of them put together."""
    rng, found = random.Random(6), list(SEEDS)
    while len(found) < COUNT:
        a, b = rng.choice(SEEDS)[:60], rng.choice(SEEDS)[:60]
        cut = rng.randrange(len(a) + 1)
        found.append(
            rng.choice(
                [
                    a + b,
                    a[:cut] + b + a[cut:],
                    b.upper() + a,
                    f"AAPL{a}",
                    f"{a}AAPL",
                    chr(rng.randrange(0x110000)) + a,
                ]
            )
        )
    return found


CORPUS = corpus()


def signal(**fields: object) -> bytes:
    document = {
        "id": "s-1", "source": "bot", "strategy": "breakout", "symbol": "AAPL", "action": "buy",
        "issued_at": MONDAY.isoformat(), **fields,
    }  # fmt: skip
    return json.dumps(document).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    "field",
    [
        "symbol",
        "id",
        "source",
        "strategy",
        "action",
        "order_type",
        "time_in_force",
        "quantity",
        "limit_price",
    ],
)
def test_fields_of_a_signal(field: str) -> None:
    taken, told = 0, []
    for text in CORPUS:
        try:
            read = parse_signal(signal(**{field: text}), source=None, now=MONDAY)
        except InvalidSignal as error:
            told.append((text, error.message))
            continue
        taken += 1
        assert {
            "symbol": GOOD.fullmatch,
            "id": NAME.fullmatch,
            "source": NAME.fullmatch,
            "strategy": NAME.fullmatch,
        }.get(field, lambda value: value in {"day", "0x"} or re.fullmatch(r"[0-9.]+", value))(
            text
        ), (field, text)
        assert getattr(read, field, text) is not None
    assert taken < COUNT / 4
    for text, message in told:
        assert len(message) < 400
        assert escape(message) == message or text.isprintable(), text[:80]


def test_text_of_a_signal_is_kept_to_the_letter() -> None:
    for text in CORPUS:
        try:
            read = parse_signal(signal(meta={"note": text}), source=None, now=MONDAY)
        except InvalidSignal:
            continue
        assert dict(read.meta) == {"note": text}


def test_symbols_of_prices() -> None:
    for text in CORPUS:
        try:
            taken = parse_prices(json.dumps({text: "1"}).encode("utf-8", "surrogatepass"))
        except InvalidSignal:
            continue
        assert all(SYMBOL.fullmatch(symbol) and GOOD.fullmatch(symbol) for symbol in taken)


def test_accounts_and_commands() -> None:
    for text in CORPUS:
        for fields in (
            {"id": text},
            {"tags": [text]},
            {"strategies": [text]},
            {"symbols": [text]},
            {"broker": text},
        ):
            try:
                account = Account.model_validate({**paper(1), **fields})
            except ValueError:
                continue
            for name in (account.id, *account.tags):
                assert NAME.fullmatch(name), text
        for document in (
            {"command": "pause", "scope": text}, {"command": text}, {"command": "cancel_order", "cl_ord_id": text},
            {"command": "close_position", "account": text, "symbol": "AAPL"}, {"command": "reject", "signal": text},
        ):  # fmt: skip
            try:
                command = parse_command({"id": "x", **document})
            except CommandRefused:
                continue
            assert text.isascii(), command


def test_names_that_become_files_or_addresses(tmp_path: Path) -> None:
    home, told = Home(tmp_path / "home"), []
    for text in CORPUS:
        try:
            hook_secret(home, text[:200])
        except ConfigError as error:
            told.append(str(error))
        else:
            assert NAME.fullmatch(text[:200])
    assert [text for text in told if escape(text) != text] == []
    assert {path.name for path in home.path.iterdir()} <= {"hooks.json", ".guard"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_log_line_stays_one_line_and_drives_no_terminal(formatter: logging.Formatter) -> None:
    for text in CORPUS:
        record = logging.makeLogRecord(
            {"msg": "told %s", "args": (text,), "levelname": "INFO", "name": "x", "field": text}
        )
        line = formatter.format(record)
        assert "\n" not in line
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", line), (
            text[:60]
        )


async def test_what_is_kept_is_shown_literally_by_every_answer(tmp_path: Path) -> None:
    hostile = [text for text in SEEDS if text and text.isprintable() and len(text) < 60]
    async with world(tmp_path, [paper(1)]) as made:
        for number, text in enumerate(hostile):
            answer = await made.post(id=f"s-{number}", meta={"note": text})
            assert answer.status_code in {202, 400}, answer.text
            if answer.status_code == 202:
                detail = await made.detail(f"bot/s-{number}")
                assert text in json.dumps(detail, ensure_ascii=False) or json.dumps(text)[
                    1:-1
                ] in json.dumps(detail)
        for text in hostile:
            answer = await made.http.get("/v1/orders", params={"symbol": text[:100]})
            assert answer.status_code in {200, 422}
        await eventually(lambda: True)
        assert (await made.http.get("/healthz")).status_code == 200
