"""Fuzz the signal parser against a second, slow, independent judge of schema v1.

``python -m tests.bench.fuzz_parser [COUNT] [SEED]``; a failure prints the body and repeats by its seed.
"""
# ruff: noqa: PT017, SIM905 (tables of hostile text; refusals inside a loop)

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from engine.errors import InvalidSignal
from engine.intake.parser import parse_signal
from engine.model.signal import Signal

NOW = datetime(2026, 11, 22, 14, 30, 0, tzinfo=UTC)
CODES = {
    "TOO_LARGE", "NOT_UTF8", "NOT_JSON", "TOO_DEEP", "DUPLICATE_KEY", "UNKNOWN_FIELD", "MISSING", "TYPE",
    "FORMAT", "RANGE", "NOT_ALLOWED", "FUTURE",
}  # fmt: skip


# --- the judge: its own JSON reader and its own reading of the rules; shares nothing with the parser


@dataclass(frozen=True)
class Num:
    """A JSON number as written."""

    text: str


class No(Exception):
    """The judge's refusal."""


PLAIN_TEXT = re.compile(r'[^"\\\x00-\x1f]+')


class Reader:
    """RFC 8259 by recursive descent; refuses duplicate keys and nesting deeper than 8."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def document(self) -> object:
        value = self.value(1)
        self.blank()
        if self.at != len(self.text):
            raise No("trailing data")
        return value

    def blank(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1

    def take(self, expected: str) -> bool:
        if self.text.startswith(expected, self.at):
            self.at += len(expected)
            return True
        return False

    def value(self, depth: int) -> object:
        self.blank()
        if self.take("{"):
            return self.members(depth)
        if self.take("["):
            return self.items(depth)
        if self.take('"'):
            return self.string()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.take(word):
                return value
        number = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?").match(
            self.text, self.at
        )
        if not number:
            raise No("no value")
        self.at = number.end()
        return Num(number[0])

    def members(self, depth: int) -> dict[str, object]:
        if depth > 8:
            raise No("deep")
        found: dict[str, object] = {}
        self.blank()
        if self.take("}"):
            return found
        while True:
            self.blank()
            if not self.take('"'):
                raise No("key")
            key = self.string()
            self.blank()
            if not self.take(":"):
                raise No("colon")
            value = self.value(depth + 1)
            if key in found:
                raise No("twice")
            found[key] = value
            self.blank()
            if self.take("}"):
                return found
            if not self.take(","):
                raise No("comma")

    def items(self, depth: int) -> list[object]:
        if depth > 8:
            raise No("deep")
        found: list[object] = []
        self.blank()
        if self.take("]"):
            return found
        while True:
            found.append(self.value(depth + 1))
            self.blank()
            if self.take("]"):
                return found
            if not self.take(","):
                raise No("comma")

    def string(self) -> str:
        units: list[str] = []
        while True:
            if self.at >= len(self.text):
                raise No("open string")
            plain = PLAIN_TEXT.match(self.text, self.at)
            if plain:
                units.append(plain[0])
                self.at = plain.end()
                continue
            char = self.text[self.at]
            self.at += 1
            if char == '"':
                break
            if char != "\\":
                raise No("control character")
            escape = self.text[self.at : self.at + 1]
            self.at += 1
            if escape == "u":
                digits = self.text[self.at : self.at + 4]
                if not re.fullmatch("[0-9a-fA-F]{4}", digits):
                    raise No("escape")
                self.at += 4
                units.append(chr(int(digits, 16)))
            elif escape and escape in '"\\/bfnrt':
                units.append(dict(zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True))[escape])
            else:
                raise No("escape")
        joined = "".join(units)  # two escaped halves make one character
        return (
            joined.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
            if re.search("[\ud800-\udbff][\udc00-\udfff]", joined)
            else joined
        )


def number(value: object) -> Decimal:
    text = value.text if isinstance(value, Num) else value
    if not isinstance(text, str):
        raise No("type")
    whole, point, fraction = text.partition(".")
    digits = set("0123456789")
    if not 1 <= len(whole) <= 18 or set(whole) - digits:
        raise No("number")
    if point and (not 1 <= len(fraction) <= 12 or set(fraction) - digits):
        raise No("number")
    figures = tuple(int(digit) for digit in whole.lstrip("0") + fraction) or (0,)
    if not any(figures):
        raise No("zero")
    return Decimal((0, figures, -len(fraction)))  # no context: exact


def name(value: object) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or set(value) - set(letters):
        raise No("name")
    return value


def moment(value: object) -> datetime:
    match = isinstance(value, str) and re.match(
        r"^([0-9]{4})-([0-9][0-9])-([0-9][0-9])[tT]([0-9][0-9]):([0-9][0-9]):([0-9][0-9])"
        r"(\.[0-9]{1,9})?([zZ]|([+-])([0-9][0-9]):([0-9][0-9]))\Z",
        value,
    )
    if not match:
        raise No("stamp")
    parts = [int(part) for part in match.groups()[:6]]
    micro = int(((match[7] or ".")[1:] + "000000")[:6])
    offset = timedelta()
    if match[9]:
        if int(match[10]) > 23 or int(match[11]) > 59:
            raise No("offset")
        offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
        offset = -offset if match[9] == "-" else offset
    try:
        stamp = datetime(*parts, micro, tzinfo=UTC) - offset  # type: ignore[arg-type,misc]
    except (ValueError, OverflowError):
        raise No("no such time") from None
    if stamp > NOW + timedelta(seconds=1):
        raise No("future")
    return stamp


def clean(text: str) -> bool:
    bad = [*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
    return not any(ord(char) in bad or 0xD800 <= ord(char) <= 0xDFFF for char in text)


def judge(body: bytes, source: str | None) -> dict[str, object]:
    """Return the fields a correct parser makes of ``body``; raise ``No`` when it must refuse."""
    if len(body) > 8192:
        raise No("large")
    try:
        text = body.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise No("utf-8") from None
    data = Reader(text).document()
    if not isinstance(data, dict):
        raise No("object")
    known = (
        "id source strategy symbol action order_type limit_price stop_price stop_loss take_profit trail_percent "
        "quantity time_in_force issued_at valid_for_s audience reference_price meta"
    ).split()
    if set(data) - set(known):
        raise No("unknown")
    if source is not None and data.setdefault("source", source) != source:
        raise No("source")
    if {"id", "source", "strategy", "symbol", "action", "issued_at"} - set(data):
        raise No("missing")
    out: dict[str, object] = {field: name(data[field]) for field in ("id", "source", "strategy")}
    out["symbol"] = symbol(data["symbol"])
    out["issued_at"] = moment(data["issued_at"])
    for field, words, default in (
        ("action", ("buy", "sell", "close", "cancel", "modify"), ""),
        ("order_type", ("market", "limit", "stop", "stop_limit"), "market"),
        ("time_in_force", ("day", "gtc", "ioc", "fok"), "day"),
    ):
        out[field] = data.get(field, default)
        if not isinstance(out[field], str) or out[field] not in words:
            raise No(field)
    prices(data, out)
    return out


def symbol(value: object) -> str:
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/-")
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= 32
        or set(value) - letters
        or value[0] in "._:/-"
    ):
        raise No("symbol")
    return value


def prices(data: dict[str, object], out: dict[str, object]) -> None:
    for field in (
        "limit_price", "stop_price", "stop_loss", "take_profit", "trail_percent", "quantity", "valid_for_s",
        "reference_price",
    ):  # fmt: skip
        out[field] = number(data[field]) if field in data else None
    kind, action = out["order_type"], out["action"]
    if (out["limit_price"] is not None) != (kind in ("limit", "stop_limit")):
        raise No("limit_price")
    if (out["stop_price"] is not None) != (kind in ("stop", "stop_limit")):
        raise No("stop_price")
    if action == "close" and kind not in ("market", "limit"):
        raise No("close")
    if action in ("cancel", "modify") and kind != "market":
        raise No("cancel")
    if action == "modify" and not {"stop_loss", "take_profit", "trail_percent"} & set(data):
        raise No("modify")
    if out["trail_percent"] is not None and not Decimal(0) < out["trail_percent"] < Decimal(100):  # type: ignore[operator]
        raise No("trail")
    if out["valid_for_s"] is not None and not Decimal("0.1") <= out["valid_for_s"] <= Decimal(
        86400
    ):  # type: ignore[operator]
        raise No("age")
    audience(data, out)


def audience(data: dict[str, object], out: dict[str, object]) -> None:
    out["accounts"] = out["tags"] = None
    if "audience" in data:
        value = data["audience"]
        if not isinstance(value, dict) or not value or set(value) - {"accounts", "tags"}:
            raise No("audience")
        for key, names in value.items():
            if not isinstance(names, list) or not 1 <= len(names) <= 1000:
                raise No("names")
            out[key] = {name(item) for item in names}
    meta = data.get("meta", {})
    if not isinstance(meta, dict) or len(meta) > 20:
        raise No("meta")
    for key, item in meta.items():
        if not isinstance(item, str) or not 1 <= len(key) <= 64 or len(item) > 512:
            raise No("meta value")
        if not clean(key) or not clean(item):
            raise No("meta text")
    out["meta"] = meta


def same(signal: Signal, expected: dict[str, object]) -> bool:
    """Say whether ``signal`` holds exactly what the judge read."""
    audience_ = signal.audience
    return (
        all(
            getattr(signal, field) == value
            for field, value in expected.items()
            if field not in ("accounts", "tags")
        )
        and (audience_.accounts if audience_ else None) == expected["accounts"]
        and (audience_.tags if audience_ else None) == expected["tags"]
        and signal.issued_at.utcoffset() == timedelta()
        and all(
            str(getattr(signal, field)) == str(expected[field])
            for field in ("limit_price", "quantity", "stop_loss", "valid_for_s")
        )
    )


# --- bodies

HOSTILE_VALUES = [
    "NaN", "Infinity", "-Infinity", "1e400", "1E2", "1e-2", "-1", "-0", "0", "0.0", "00", "01", "1.", ".5",
    "+1", "1_000", "9" * 18, "9" * 19, "9" * 5000, "0." + "1" * 12, "0." + "1" * 13, "true", "false", "null",
    '"NaN"', '"Infinity"', '"1e5"', '"1_000"', '" 1"', '"1 "', '"1\\n"', '"-1"', '"0"', '"0.000"', '"+1"',
    '"٣"', '"１"', '"\\u0661"', '""', '"."', '"1."', '".1"', '"0x10"', '"1,5"', "[]", "{}", "[1]", '["A"]',
    '{"accounts":[]}', '{"accounts":["a"],"tags":["b"]}', '{"accounts":["a",1]}', '{"tags":[""]}',
    '{"tags":"gold"}', '{"all":true}', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"',
    '"\x00"', '"\\u202e"', '"buy\\u0000"', '"BUY"', '"buy "', '"bу"', '"../../etc"', '"=1+1"', '{"$gt":""}',
    '"aapl"', '"' + "A" * 32 + '"', '"' + "A" * 33 + '"', '"' + "a" * 64 + '"', '"' + "a" * 65 + '"',
    '"2026-11-22T14:30:00Z"', '"2026-11-22T14:30:01Z"', '"2026-11-22T14:30:01.000001Z"',
    '"2026-11-22T14:30:00"', '"2026-11-22 14:30:00Z"', '"2026-11-22T14:30:60Z"', '"2026-11-22T24:00:00Z"',
    '"2026-02-29T00:00:00Z"', '"2026-11-22T16:30:00+02:00"', '"2026-11-22T14:30:00+24:00"',
    '"0001-01-01T00:00:00+01:00"', '"9999-12-31T23:59:59-23:59"', '"2026-11-22t14:29:59.123456789z"',
    '"20261122T143000Z"', '"2026-W47-7T14:30:00Z"', '"2026-11-22T14:30Z"', "1763821980", "0.1", "86400",
    "86400.1", "0.09", '"100"', '"99.999"', '"market"', '"limit"', '"stop"', '"stop_limit"', '"close"',
    '"cancel"', '"modify"', '"gtc"', '{"k":"v"}', '{"k":1}', '{"":"v"}', '{"k":"a\\tb"}',
    '{"' + "k" * 64 + '":"' + "v" * 512 + '"}', '{"' + "k" * 65 + '":"v"}', '{"k":"' + "v" * 513 + '"}',
    "{" + ",".join(f'"k{i}":"v"' for i in range(20)) + "}",
    "{" + ",".join(f'"k{i}":"v"' for i in range(21)) + "}",
    "[" * 100000 + "]" * 100000, "[" * 9, '{"a":' * 9, "[[[[[[[[]]]]]]]]", '"[[[[[[[[[[[["',
]  # fmt: skip


def _members(count: int) -> str:
    return "{" + ",".join(f'"k{i}":"v"' for i in range(count)) + "}"


def _names(field: str, count: int) -> str:
    return f'{{"{field}":[' + ",".join(['"a"'] * count) + "]}"


AT_LIMITS = [
    *(("audience", _names(field, count)) for field in ("accounts", "tags") for count in (1000, 1001, 1900)),
    *(("meta", _members(count)) for count in (20, 21, 600)),
    *(("meta", f'{{"{"k" * length}":"v"}}') for length in (64, 65)),
    *(("meta", f'{{"k":"{"v" * length}"}}') for length in (512, 513)),
]  # fmt: skip
"""Values of the right field that are as long as may be, and longer."""
WHOLE = [
    b"", b" ", b"null", b"[]", b"1", b'"x"', b"{}", b"{", b"}", b"NaN", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
    b"\x00", b"{}" * 2, b"[" * 8192, b"{" * 8192, b'{"a":' * 1638, b'"' * 8192, b'\\"' * 4096, b'"\\' * 4096,
    b"[" * 100000, b"9" * 8192, b"-" * 8192, b" " * 8193, b"\xed\xa0\x80", b"\xc0\x80", b"{'id':1}",
    b'{"id":1,}', b'{"id":"a","\\u0069d":"b"}', b"\x80" * 100, b"{/**/}", b'{"a":1//\n}',
]  # fmt: skip
FIELDS = (
    "id source strategy symbol action order_type limit_price stop_price stop_loss take_profit trail_percent "
    "quantity time_in_force issued_at valid_for_s audience reference_price meta extra ID limitPrice"
).split()
PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-"


def text(rng: random.Random, letters: str, most: int) -> str:
    return "".join(rng.choices(letters, k=rng.randint(1, most)))


def price(rng: random.Random) -> str:
    whole = str(rng.randint(0, 10 ** rng.randint(1, 17)))
    fraction = text(rng, "0123456789", 12) if rng.random() < 0.6 else ""
    written = f"{whole}.{fraction}" if fraction else whole
    if not written.strip("0."):
        written = "1"
    return f'"{written}"' if rng.random() < 0.7 else written


def quoted(rng: random.Random, value: str) -> str:
    often = rng.choice([0.0] * 15 + [0.1, 1.0])
    if not often and not re.search(r'["\\\x00-\x1f]', value):
        return f'"{value}"'
    out = []
    for char in value:
        if char in '"\\' or ord(char) < 0x20 or (often and rng.random() < often):
            units = char.encode("utf-16-be", "surrogatepass")
            out += [f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)]
        else:
            out.append(char)
    return f'"{"".join(out)}"'


def valid(rng: random.Random) -> list[tuple[str, str]]:
    """Return the members (key, JSON text) of a signal that must be accepted."""
    action = rng.choice(["buy", "buy", "sell", "sell", "close", "cancel", "modify"])
    kinds = {"close": ["market", "limit"], "cancel": ["market"], "modify": ["market"]}
    kind = rng.choice(kinds.get(action, ["market", "limit", "stop", "stop_limit"]))
    stamp = NOW - timedelta(milliseconds=rng.randint(-1000, 10**9))
    symbol_ = rng.choice("ABCXYZ019") + text(rng, "ABCXYZ019._:/-", 31)
    members = {
        "id": quoted(rng, text(rng, PLAIN, 64)),
        "source": quoted(rng, text(rng, PLAIN, 64)),
        "strategy": quoted(rng, text(rng, PLAIN, 64)),
        "symbol": quoted(rng, symbol_),
        "action": quoted(rng, action),
        "issued_at": quoted(rng, stamp.isoformat().replace("+00:00", rng.choice(["Z", "+00:00"]))),
    }
    if kind != "market" or rng.random() < 0.3:
        members["order_type"] = f'"{kind}"'
    for field, needed in (("limit_price", "limit" in kind), ("stop_price", "stop" in kind)):
        if needed:
            members[field] = price(rng)
    for field in ("stop_loss", "take_profit", "quantity", "reference_price"):
        if rng.random() < 0.4:
            members[field] = price(rng)
    if action == "modify":
        members["take_profit"] = price(rng)
    if rng.random() < 0.2:
        members["trail_percent"] = rng.choice(['"0.5"', "1.25", '"99.99"', "7"])
    if rng.random() < 0.4:
        members["time_in_force"] = rng.choice(['"day"', '"gtc"', '"ioc"', '"fok"'])
    if rng.random() < 0.4:
        members["valid_for_s"] = rng.choice(["0.1", "5.0", '"86400"', "86400.000", '"12.5"'])
    if rng.random() < 0.4:
        names = ",".join(quoted(rng, text(rng, PLAIN, 12)) for _ in range(rng.randint(1, 9)))
        members["audience"] = f'{{"{rng.choice(["accounts", "tags"])}":[{names}]}}'
    if rng.random() < 0.3:
        pairs = [
            f'"k{i}":{quoted(rng, text(rng, PLAIN + "é€😀 [{", 30))}'
            for i in range(rng.randint(0, 6))
        ]
        members["meta"] = "{" + ",".join(pairs) + "}"
    pairs_ = list(members.items())
    rng.shuffle(pairs_)
    return pairs_


def write(rng: random.Random, members: list[tuple[str, str]]) -> bytes:
    def gap() -> str:
        return rng.choice(["", "", "", " ", "\n ", "\t", "\r\n"])

    if rng.random() < 0.6:
        inner = ", ".join([f'"{key}": {value}' for key, value in members])
        return f"{{{inner}}}".encode("utf-8", "surrogatepass")
    inner = ",".join(
        f"{gap()}{quoted(rng, key)}{gap()}:{gap()}{value}{gap()}" for key, value in members
    )
    return f"{gap()}{{{inner}}}{gap()}".encode("utf-8", "surrogatepass")


def to_the_limit(rng: random.Random, members: list[tuple[str, str]]) -> None:
    key, value = rng.choice(AT_LIMITS)
    members[:] = [member for member in members if member[0] != key] + [(key, value)]


def padded(rng: random.Random, body: bytes) -> bytes:
    """Return a body of as many bytes as may be, or of one more."""
    return body.ljust(8192 + rng.randrange(2))


def mutate_members(rng: random.Random, members: list[tuple[str, str]]) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(members)) if members else 0
        kind = rng.randrange(6)
        if rng.random() < 0.01:
            to_the_limit(rng, members)
        elif kind == 0 and members:
            del members[at]
        elif kind == 1:
            members.insert(at, (rng.choice(FIELDS), rng.choice(HOSTILE_VALUES)))
        elif kind == 2 and members:
            members.insert(rng.randrange(len(members) + 1), members[at])
        elif kind == 3 and members:
            members[at] = (rng.choice(FIELDS), members[at][1])
        elif members:
            members[at] = (members[at][0], rng.choice(HOSTILE_VALUES))


def mutate_bytes(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at:at] = bytes(
                rng.choices(b'"\\{}[],:0123456789.eE+-tfn \x00\x80\xff', k=rng.randint(1, 3))
            )
        elif kind == 2:
            del data[at : at + rng.randint(1, 5)]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.randint(1, 40)]
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def body_of(rng: random.Random) -> tuple[bytes, bool]:
    """Return a body, and whether it is valid by construction."""
    draw = rng.random()
    if draw < 0.01:
        return rng.choice(WHOLE), False
    members = valid(rng)
    if draw < 0.15:
        body = write(rng, members)
        if draw < 0.011:
            body = padded(rng, body)
        return body, len(body) <= 8192
    if draw < 0.65:
        mutate_members(rng, members)
        return write(rng, members), False
    if draw < 0.7:
        mutate_members(rng, members)
        return mutate_bytes(rng, write(rng, members)), False
    return mutate_bytes(rng, write(rng, members)), False


def run(
    count: int,
    seed: int,
    parse: Callable[..., Signal] = parse_signal,
    judged: int = 4,
) -> Counter[str]:
    """Parse ``count`` bodies; every acceptance and one refusal in ``judged`` is held against the judge.

    Raises:
        AssertionError: a wrong acceptance, a wrong refusal, a wrong value, or another exception.
    """
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    for index in range(count):
        body, must = body_of(rng)
        source = rng.choice([None, None, None, "tv"]) if not must else None
        where = f"body {index} of seed {seed}, source {source}: {body[:3000]!r}"
        try:
            signal = parse(body, source=source, now=NOW)
        except InvalidSignal as error:
            assert error.code in CODES, where
            assert error.message.isprintable(), where
            assert len(error.message) < 500, where
            assert not must, f"{error.message}: {where}"
            seen[error.code] += 1
            if index % judged == 0:
                try:
                    judge(body, source)
                except No:
                    continue
                raise AssertionError(f"wrongly refused ({error.message}): {where}") from None
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} escaped: {where}") from error
        seen["accepted"] += 1
        try:
            expected = judge(body, source)
        except No as no:
            raise AssertionError(f"wrongly accepted ({no}): {where}") from None
        assert same(signal, expected), f"read wrongly as {signal}: {where}"
    return seen


def main() -> None:
    """Run from the command line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began = time.perf_counter()
    seen = run(count, seed)
    took = time.perf_counter() - began
    sys.stdout.write(f"{count} bodies, seed {seed}, {took:.1f} s: {dict(seen.most_common())}\n")


if __name__ == "__main__":
    main()
