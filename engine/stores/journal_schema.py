"""The journal's schema: its tables, and how a file of an older version becomes one of this version."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from engine import failpoints
from engine.errors import StoreError

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signals (
    seq INTEGER PRIMARY KEY, source TEXT NOT NULL, id TEXT NOT NULL, body_hash TEXT NOT NULL, body BLOB NOT NULL,
    origin TEXT NOT NULL, received_at TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    plan BLOB NOT NULL, trace BLOB, settled INTEGER NOT NULL DEFAULT 0, UNIQUE (source, id));
CREATE INDEX IF NOT EXISTS signals_open ON signals (settled) WHERE settled = 0;
CREATE TABLE IF NOT EXISTS orders (
    cl_ord_id TEXT PRIMARY KEY NOT NULL, account TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    order_type TEXT NOT NULL, time_in_force TEXT NOT NULL, order_qty TEXT NOT NULL, limit_price TEXT,
    stop_price TEXT, status TEXT NOT NULL, working INTEGER NOT NULL, cum_qty TEXT NOT NULL, cash TEXT NOT NULL,
    order_id TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, leg TEXT NOT NULL, reducing INTEGER NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, send_us INTEGER, ack_us INTEGER, stop_loss TEXT, take_profit TEXT, trail_percent TEXT,
    parent TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS orders_working ON orders (working) WHERE working = 1;
CREATE INDEX IF NOT EXISTS orders_signal ON orders (source, signal_id);
CREATE INDEX IF NOT EXISTS orders_time ON orders (created_at);
CREATE TABLE IF NOT EXISTS fills (
    account TEXT NOT NULL, exec_id TEXT NOT NULL, cl_ord_id TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    last_qty TEXT NOT NULL, last_px TEXT NOT NULL, at TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, fee_qty TEXT NOT NULL DEFAULT '0', PRIMARY KEY (account, exec_id));
CREATE INDEX IF NOT EXISTS fills_order ON fills (cl_ord_id);
CREATE INDEX IF NOT EXISTS fills_time ON fills (at);
CREATE TABLE IF NOT EXISTS positions (
    account TEXT NOT NULL, symbol TEXT NOT NULL, qty TEXT NOT NULL, cash TEXT NOT NULL, cost TEXT NOT NULL,
    stop_loss TEXT, take_profit TEXT, updated_at TEXT NOT NULL, trail_percent TEXT, best TEXT,
    native INTEGER NOT NULL DEFAULT 0, generation INTEGER NOT NULL DEFAULT 1, source TEXT NOT NULL DEFAULT '',
    signal_id TEXT NOT NULL DEFAULT '', strategy TEXT NOT NULL DEFAULT '', PRIMARY KEY (account, symbol))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS square_offs (account TEXT PRIMARY KEY, day TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS halts (
    scope TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (
    account TEXT NOT NULL, day TEXT NOT NULL, baseline TEXT NOT NULL, PRIMARY KEY (account, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commands (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, body BLOB NOT NULL, result BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (
    kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, account TEXT NOT NULL, facts TEXT NOT NULL,
    hash BLOB NOT NULL);
"""

_MISPLACED = "new.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit)"
_REFUSE = "BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END"
TRIGGERS = (
    f"CREATE TRIGGER IF NOT EXISTS audit_no_update BEFORE UPDATE ON audit {_REFUSE}",
    f"CREATE TRIGGER IF NOT EXISTS audit_no_delete BEFORE DELETE ON audit {_REFUSE}",
    # REPLACE deletes without the trigger above; a row is only ever put behind the last.
    f"CREATE TRIGGER IF NOT EXISTS audit_append BEFORE INSERT ON audit WHEN {_MISPLACED} {_REFUSE}",
)
"""What keeps even our own SQL from changing the audit trail."""

SCHEMA_VERSION = 3
"""What the tables above are; a file of a newer version is refused, one of an older version is brought up to date."""

MIGRATIONS: dict[int, tuple[str, ...]] = {
    2: (
        # Orders and fills become tables in the order of writing: a long row under a random key costs twice as much.
        "ALTER TABLE orders RENAME TO orders_1",
        "ALTER TABLE fills RENAME TO fills_1",
        *(
            f"DROP INDEX IF EXISTS {name}"  # it would keep its name, and go with the old table
            for name in (
                "orders_working",
                "orders_signal",
                "orders_time",
                "fills_order",
                "fills_time",
            )
        ),
        "ALTER TABLE positions ADD COLUMN trail_percent TEXT",
        "ALTER TABLE positions ADD COLUMN best TEXT",
        "ALTER TABLE positions ADD COLUMN native INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE positions ADD COLUMN generation INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE positions ADD COLUMN source TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE positions ADD COLUMN signal_id TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE positions ADD COLUMN strategy TEXT NOT NULL DEFAULT ''",
    ),
    3: (),  # facts and audit are new
}
"""What makes a file of the version before one of this version; tables that are new are made anyway."""

_ORDERS_1 = (
    "cl_ord_id, account, symbol, side, order_type, time_in_force, order_qty, limit_price, stop_price, status, working, "
    "cum_qty, cash, order_id, code, text, strategy, source, signal_id, leg, reducing, created_at, updated_at, send_us, "
    "ack_us"
)
_FILLS_1 = (
    "account, exec_id, cl_ord_id, symbol, side, last_qty, last_px, at, strategy, source, signal_id"
)
MOVES: dict[int, tuple[str, ...]] = {
    2: (
        f"INSERT INTO orders ({_ORDERS_1}) SELECT {_ORDERS_1} FROM orders_1 ORDER BY created_at",  # noqa: S608 (our own names)
        "DROP TABLE orders_1",
        f"INSERT INTO fills ({_FILLS_1}) SELECT {_FILLS_1} FROM fills_1 ORDER BY at",  # noqa: S608 (our own names)
        "DROP TABLE fills_1",
    ),
    3: (),
}
"""What fills the tables of a version from those a migration set aside."""


def make_or_migrate(connection: sqlite3.Connection, then: Callable[[], None] | None = None) -> None:
    """Make the tables, or bring those of an older version up to date, and do ``then``, all in one transaction.

    Raises:
        StoreError: the file is of a newer version; not a byte of it is changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version_of(connection)
        steps = range(version + 1, SCHEMA_VERSION + 1) if version else ()
        for statement in (
            *(statement for step in steps for statement in MIGRATIONS[step]),
            *SCHEMA.split(";"),
            *TRIGGERS,
            *(statement for step in steps for statement in MOVES[step]),
            f"INSERT OR REPLACE INTO meta VALUES ('schema', '{SCHEMA_VERSION}')",  # noqa: S608 (our own number)
            "INSERT OR IGNORE INTO meta SELECT 'book', lower(hex(randomblob(8)))",
        ):
            if failpoints.ARMED:
                failpoints.hit("K29.before")
            connection.execute(statement)
            if failpoints.ARMED:
                failpoints.hit("K29.after")
        if then is not None:
            then()
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    if 0 < version < SCHEMA_VERSION:
        log.warning("the journal was brought from version %d to %d", version, SCHEMA_VERSION)


def _version_of(connection: sqlite3.Connection) -> int:
    """Return a file's version, 0 for a new one; one this build does not read is refused."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    found = None
    if "meta" in tables:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if found is None:
        return 1 if "orders" in tables else 0  # version 1 named itself in a second transaction
    if found[0] not in {str(version) for version in range(1, SCHEMA_VERSION + 1)}:
        raise StoreError(
            f"its schema is version {found[0]}, this build reads version {SCHEMA_VERSION}"
        )
    return int(found[0])
