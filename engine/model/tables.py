"""The tables of the feed and the lists: what a row of each holds.

Every row is a plain JSON object: money and quantities are text in decimal notation, stamps RFC 3339 in UTC,
latencies whole microseconds, absent values ``null``. The feed, the lists of the API, the desk and the exports
all speak these rows, so a column is named once. Keys are unique in their table and never change.
"""

from __future__ import annotations

from typing import Final

SIGNALS: Final = "signals"
ORDERS: Final = "orders"
FILLS: Final = "fills"
POSITIONS: Final = "positions"
ACCOUNTS: Final = "accounts"
ENGINE: Final = "engine"
HALTS: Final = "halts"
KILL: Final = "kill"
LATENCY: Final = "latency"
PNL: Final = "pnl"
ALERTS: Final = "alerts"
DIFFERENCES: Final = "differences"
EXTERNAL: Final = "external"
CONTROLS: Final = "controls"
USAGE: Final = "usage"
BARS: Final = "bars"
STRATEGIES: Final = "strategies"
UNKNOWN: Final = "unknown"

KEYS: Final[dict[str, str]] = {
    SIGNALS: "key",  # source/id
    ORDERS: "cl_ord_id",
    FILLS: "key",  # account/exec_id
    POSITIONS: "key",  # account/symbol
    ACCOUNTS: "id",
    ENGINE: "key",  # one row, "engine"
    HALTS: "scope",
    KILL: "account",
    LATENCY: "stage",
    PNL: "at",
    ALERTS: "id",
    DIFFERENCES: "key",  # account/kind/subject
    EXTERNAL: "key",  # account/order_id
    CONTROLS: "number",  # C01 to C30
    USAGE: "key",  # scope/limit
    BARS: "key",  # symbol@seconds
    STRATEGIES: "strategy",
    UNKNOWN: "cl_ord_id",
}

_ORDER = (
    "cl_ord_id",
    "order_id",
    "account",
    "broker",
    "symbol",
    "side",
    "order_type",
    "time_in_force",
    "order_qty",
    "limit_price",
    "stop_price",
    "status",
    "cum_qty",
    "leaves_qty",
    "avg_px",
    "code",
    "text",
    "strategy",
    "source",
    "signal_id",
    "leg",
    "parent",
    "created_at",
    "updated_at",
    "first_byte_us",
    "ack_us",
)

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    SIGNALS: (
        "key",
        "source",
        "id",
        "strategy",
        "symbol",
        "action",
        "order_type",
        "time_in_force",
        "limit_price",
        "stop_price",
        "stop_loss",
        "take_profit",
        "quantity",
        "reference_price",
        "issued_at",
        "received_at",
        "origin",
        "state",
        "code",
        "message",
        "accounts",
        "sent",
        "held",
        "skipped",
        "refused",
        "filled",
        "working",
        "rejected",
        "unknown",
        "hold_expires_at",
        "predicted_finish_ms",
        "predicted_cold",
        "price",
        "mark",
        "drift_percent",
        "drifted",
        "stage",
        "stage_text",
        "stage_expires_at",
        "first_byte_us",
        "last_byte_us",
        "last_ack_us",
        "note",
        "tags",
    ),
    ORDERS: (
        *_ORDER,
        "note",
        "tags",
    ),
    FILLS: (
        "key",
        "account",
        "exec_id",
        "cl_ord_id",
        "symbol",
        "side",
        "last_qty",
        "last_px",
        "at",
        "strategy",
        "source",
        "signal_id",
        "fee_qty",
    ),
    POSITIONS: (
        "key",
        "account",
        "symbol",
        "qty",
        "avg_px",
        "mark",
        "mark_age_s",
        "value",
        "unrealised",
        "realised",
        "stop_loss",
        "take_profit",
        "trail_percent",
        "protected",
        "stop_distance_percent",
        "updated_at",
        "note",
        "tags",
    ),
    ACCOUNTS: (
        "id",
        "name",
        "broker",
        "environment",
        "active",
        "tags",
        "strategies",
        "symbols",
        "approval",
        "sizing",
        "limits",
        "hours",
        "connection",
        "connection_text",
        "state",
        "equity",
        "cash",
        "buying_power",
        "day_pnl",
        "realised",
        "unrealised",
        "exposure",
        "positions",
        "open_orders",
        "unknown_orders",
        "rejects",
        "queue",
        "ack_p50_us",
        "session_expires_at",
        "last_probe_at",
        "warm_connections",
        "rate_left",
        "rate_most",
        "paused_until",
        "logs_in",
        "todo",
        "needs",
        "differences",
        "external_orders",
        "reconciliation",
        "last_error",
        "updated_at",
    ),
    ENGINE: (
        "key",
        "name",
        "version",
        "pid",
        "book",
        "profile",
        "simulated",
        "trading",
        "reason",
        "started_at",
        "now",
        "accounts",
        "connected",
        "open_orders",
        "unknown_orders",
        "held",
        "signals",
        "orders",
        "fills",
        "signals_per_s",
        "orders_per_s",
        "equity",
        "day_pnl",
        "realised",
        "unrealised",
        "exposure",
        "loop_lag_ms",
        "services",
        "needs",
        "prices",
    ),
    HALTS: ("scope", "state", "reason", "at", "by"),
    KILL: (
        "account",
        "blocked",
        "cancels_sent",
        "cancels_confirmed",
        "working",
        "late",
        "residual",
        "done",
        "verified_at",
        "error",
        "at",
    ),
    LATENCY: ("stage", "total", "minute", "second", "buckets", "at"),
    PNL: (
        "at",
        "equity",
        "total",
        "realised",
        "unrealised",
        "signals",
        "orders",
        "fills",
        "loop_lag_ms",
    ),
    ALERTS: (
        "id",
        "at",
        "severity",
        "area",
        "code",
        "account",
        "text",
        "count",
        "last_at",
        "acknowledged_at",
    ),
    DIFFERENCES: (
        "key",
        "account",
        "broker",
        "kind",
        "symbol",
        "expected",
        "actual",
        "difference",
        "value",
        "seen",
        "since",
        "at",
        "actions",
        "text",
    ),
    EXTERNAL: (
        "key",
        "account",
        "broker",
        "order_id",
        "cl_ord_id",
        "symbol",
        "side",
        "order_type",
        "order_qty",
        "leaves_qty",
        "limit_price",
        "stop_price",
        "status",
        "value",
        "since",
        "at",
    ),
    CONTROLS: (
        "number",
        "title",
        "state",
        "setting",
        "refusals",
        "last_at",
        "last_code",
        "last_account",
        "last_text",
        "meaning",
    ),
    USAGE: ("key", "scope", "limit", "used", "most", "percent", "unit", "text", "at"),
    BARS: ("key", "symbol", "interval_s", "at", "open", "high", "low", "close", "prices"),
    STRATEGIES: ("strategy", "total", "exposure", "fills"),
    UNKNOWN: (
        *_ORDER,
        "promise",
        "settle_s",
        "may_resend",
        "sent_at",
        "sent",
        "looks",
        "looked_at",
        "said",
    ),
}
"""``sizing``, ``limits``, ``hours`` are objects; ``tags``, ``strategies``, ``symbols`` lists; ``services`` maps a
name (``journal``, ``redis``, ``mongo``, ``prices``) to ``{"state","text"}``; ``prices`` maps a symbol to its last
price; ``residual`` maps a symbol to the quantity still held. A latency row's ``total``, ``minute`` and ``second``
are ``{"count","p50","p90","p99","p999","max"}`` in microseconds (``null`` where nothing was measured), ``buckets`` a
list of ``[upper bound in microseconds, count]`` since start. The tables ``signals``, ``orders`` and ``fills`` hold
the newest few thousand rows; older ones are read through the lists of the API.

``price`` of a held signal: the price it came at (the producer's, else the market's), ``mark`` the market's now,
``drift_percent`` how far that is from it, ``drifted``: beyond ``signals.approval_drift_percent``. ``stage`` of a staged
release: ``waiting``, ``released``, ``halted``, ``stopped``, ``expired`` or ``ended``; ``stage_text`` says it in a line.
``predicted_finish_ms`` of a held signal: how long its orders would take to leave if it were released now, by the
limits alone; ``predicted_cold``: how many of its accounts have no free connection just now, which that does not
count. An account's ``queue``: orders that wait in its lane; ``rate_left``: entries its limits would let leave at once,
of ``rate_most`` while nothing has left lately; ``warm_connections``: open of wanted, like ``2/2``;
``last_probe_at``: when its broker last answered;
``paused_until``: the end of the quiet its broker asked for; ``logs_in``: whether its broker wants a person to log
in each day (the command ``log_in``); ``todo``: what a person must do, empty if nothing;
``needs`` (of the engine's own row, too): the same one by one, each ``{"code","text","todo"}``;
``differences``, ``external_orders``: how many lines of those tables are its; ``reconciliation``: how often it is
really compared with its broker, and of what it is not.

``differences``: what the broker says against what the journal expects. ``kind`` is ``order``, ``position`` or
``cash``; ``symbol`` the position's, or the order's ClOrdID; ``seen`` how many comparisons in a row found it;
``actions`` what may be done (``adopt``: the broker's word becomes ours; ``repair``: an order brings it to ours).
``external``: working orders at a broker that are none of ours: counted as exposure, never touched but by ``kill``.
``controls``: the thirty controls (engine.model.controls); ``state`` is ``on``, ``off``, ``tripped`` or ``failing``.
``pnl``: one row a second; ``signals``, ``orders``, ``fills`` count since the book began, ``loop_lag_ms`` is the worst
of that second. ``bars``: the live bars of symbols that somebody reads bars of (the command ``bars``), ``at`` is a bar's
start, ``prices`` how many made it. ``strategies``: profit or loss since the engine's start, what is held at its mark.
``usage``: limits in use, ``scope`` as in commands (``all`` is the firm), ``percent`` a whole number.
``unknown``: the orders whose outcome nobody can prove, each as in ``orders`` and with what is known: ``sent`` (``all``,
``part`` or ``not known`` of it left) at ``sent_at``, ``looks`` (how often its broker was asked for it), ``looked_at``
and ``said`` (the last answer), ``promise`` (``D``: the broker refuses a repeated id for ever; ``T``: it can be found by
its id; ``N``: neither), ``settle_s`` (how long "not found" proves nothing), ``may_resend`` (absence can be proven).
``note``, ``tags``: what a person wrote down about it (the command ``note``).
An alert's ``count`` and ``last_at`` tell how often and when last the same was told: repeats are grouped."""

STAGES: Final = (
    "validated",
    "durable",
    "planned",
    "first_byte",
    "last_byte",
    "first_ack",
    "last_ack",
    "send",
    "ack",
)
"""The first seven are nanoseconds since ``received`` of a signal (its trace); ``send`` is one order from its plan
being durable to its last byte, ``ack`` one order from its last byte to the broker's answer."""
