"""The kill points: every failpoint of the engine, what it stands before and after, and how a run comes past it.

Each name occurs in the source twice, as ``NAME.before`` and ``NAME.after``. ``label`` is the kill point's number in the
reliability specification, where that is not the name itself. ``way`` names the scenario of ``kill_points`` that passes
it, ``hit`` the pass at which it is armed there: late enough that others of the same fan-out are on their way already.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """One failpoint. ``classes``: the classes of brokers it is passed with, where it does not matter one will do.

    ``past_check``: it stands between the last look at an order's age and the wire, so an engine held up there sends
    what has become too old; nobody can call those bytes back.
    """

    says: str
    way: str = "trade"
    hit: int = 5
    label: str = ""
    classes: str = "DTN"
    past_check: bool = False


POINTS: dict[str, Point] = {
    "K01": Point("the bytes of a signal are read; nothing has looked at them", hit=2),
    "K02": Point("a webhook's secret is compared", way="webhook", hit=2, classes="D"),
    "K03": Point("a signal with its plan is handed to the journal's thread", hit=2),
    "K04": Point("the plan is durable; the source has not been answered", hit=2),
    "K05": Point("the answer to a source is handed to the system", hit=2),
    "K06": Point("the accounts that follow a signal are read", hit=2),
    "K07": Point("a signal's row with every intent is written inside its transaction", hit=2),
    "K08": Point("a durable plan is handed to the dispatcher", hit=2),
    "K09": Point("a plan's orders begin to count against every limit", hit=2),
    "K10": Point("an order waits for its account's rate", way="rate", hit=2),
    "K11": Point("an order is judged at the head of its lane, at the last moment before it leaves"),
    "K12": Point("an order has left its lane and is handed to its session"),
    "journal.commit": Point(
        "a transaction of the journal becomes durable (fsync)", hit=3, label="K13"
    ),
    "K14": Point("a connection to the broker is opened", way="connect", hit=2),
    "K15": Point("a connection is chosen, not a byte is written", past_check=True),
    "K16": Point("a third, then two thirds of a request are with the system", past_check=True),
    "K17": Point("the last byte of a request is handed over", past_check=True),
    "K18": Point("a piece of a reply arrives; after it, it is still not whole", way="drip", hit=2),
    "K19": Point("a whole reply is read and judged; nothing of it is durable"),
    "K20": Point("the rows of orders that were answered are written, not yet durable", hit=1),
    "journal.flush": Point(
        "the rows that follow the facts are written in one transaction", hit=1, label="K20"
    ),
    "K21": Point("the broker is asked about an order of unknown outcome", way="absent", hit=1),
    "K22": Point("an order is proven absent", way="absent", hit=1, classes="DT"),
    "K23": Point("a report that tells of fills is applied", hit=4),
    "K24": Point("a fill moves its position", hit=4),
    "K25": Point("a moved position is told to everybody; nothing of it is durable", hit=4),
    "K26": Point("a cancel is handed to a lane", hit=2),
    "cancel.sent": Point("a cancel's bytes are handed to the system", hit=2, label="K26"),
    "cancel.acked": Point("the answer to a cancel is judged", hit=2, label="K26"),
    "K27": Point("the kill switch's latch is put in force and written", way="kill", hit=1),
    "kill.cancel": Point(
        "the kill switch cancels one order of several", way="kill", hit=2, label="K27"
    ),
    "K28": Point(
        "changed accounts take the place of the old ones", way="reload", hit=1, classes="D"
    ),
    "K29": Point(
        "a statement of the journal's schema is carried out", way="migrate", hit=12, classes="D"
    ),
    "K30": Point("a recovery reads the journal", way="recover", hit=1),
    "recovery": Point(
        "everything is loaded, and intents without a row become orders of unknown outcome",
        way="recover",
        hit=1,
        label="K30",
    ),
    "recovery.states": Point(
        "a recovery puts latches and days in force again", way="recover", hit=1, label="K30"
    ),
    "journal.checkpoint": Point(
        "the journal's log is folded into its file", way="linger", hit=1, label="K31", classes="D"
    ),
    "log.rotate": Point("the log begins a new file", way="rotate", hit=1, label="K31", classes="D"),
    "K32": Point("the book's lease at a shared Redis is renewed", way="lease", hit=2, classes="D"),
    "K33": Point("a login's token is put in its place", way="login", hit=1, classes="N"),
    "redis.taken": Point(
        "an entry of the stream is handled", way="stream", hit=2, label="K01", classes="D"
    ),
    "redis.ack": Point(
        "entries of the stream are acknowledged", way="stream", hit=1, label="K05", classes="D"
    ),
}


def names() -> list[str]:
    """Return every failpoint as the source has it."""
    return [f"{name}.{side}" for name in POINTS for side in ("before", "after")]
