"""Every code a refusal may carry, what it means and whether an operator may force past it.

Codes are stable: programs match on them. ``soft`` codes may be forced one order at a time with a reason;
hard ones need a changed limit, a mended connection or a fresh signal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """One code for people: a title for a column, an explanation for a tooltip."""

    title: str
    explanation: str
    soft: bool = False


CODES: dict[str, CodeInfo] = {
    # the signal itself
    "STALE": CodeInfo(
        "Too old",
        "The signal was older than its own or the configured age limit when its order would have left.",
        soft=True,
    ),
    "FUTURE": CodeInfo(
        "From the future",
        "issued_at lies more than one second ahead of this machine's clock; check both clocks.",
    ),
    "DUPLICATE": CodeInfo(
        "Duplicate", "This source has sent this signal id before; the first outcome stands."
    ),
    "DISARMED": CodeInfo("Disarmed", "Nothing is sent until a person arms trading."),
    "HALTED": CodeInfo("Halted", "A kill switch is latched for this scope; re-arm it to go on."),
    "PAUSED": CodeInfo("Paused", "Entries are paused for this scope; exits still pass."),
    "NO_ACCOUNTS": CodeInfo("No accounts", "No account may act on this signal."),
    "FANOUT_ACCOUNTS": CodeInfo(
        "Too many accounts",
        "One signal would reach more accounts than limits.max_accounts_per_signal; none was sent.",
    ),
    "FANOUT_VALUE": CodeInfo(
        "Too much value",
        "One signal's orders would be worth more than limits.max_signal_value; none was sent.",
    ),
    "BUSY": CodeInfo("Too busy", "The intake queue is full; send it again after the time given."),
    # eligibility
    "NOT_IN_AUDIENCE": CodeInfo("Not addressed", "The signal names other accounts or tags."),
    "INACTIVE": CodeInfo("Inactive", "The account is switched off."),
    "NOT_SUBSCRIBED": CodeInfo("Not subscribed", "The account does not follow this strategy."),
    "SYMBOL_NOT_ALLOWED": CodeInfo(
        "Symbol not allowed", "The account's list of symbols does not contain this one."
    ),
    "OUTSIDE_HOURS": CodeInfo(
        "Outside hours", "The account's trading hours are over or have not begun.", soft=True
    ),
    "POSITION_LIMIT": CodeInfo(
        "Position limit", "The account holds as many open positions as its limit allows.", soft=True
    ),
    "REWARD_RISK": CodeInfo(
        "Reward to risk",
        "Take profit and stop loss give less reward for the risk than the account asks for.",
        soft=True,
    ),
    "DAILY_LOSS": CodeInfo(
        "Daily loss",
        "The account has lost its limit for the day; entries are off until the next session.",
    ),
    "NOT_CONNECTED": CodeInfo("Not connected", "The account's broker session is not up."),
    "NO_POSITION": CodeInfo("No position", "There is nothing to close or change."),
    "NO_ORDERS": CodeInfo("No working orders", "There is nothing to cancel."),
    "BROKER_UNSUPPORTED": CodeInfo(
        "Not supported", "The account's broker has no such order type or time in force."
    ),
    # review
    "REVIEW": CodeInfo("Waits for review", "The account's orders wait for an operator's approval."),
    "APPROVAL_TIMEOUT": CodeInfo(
        "Not approved in time", "Nobody approved the order before its time was over.", soft=True
    ),
    "PRICE_DRIFT": CodeInfo(
        "Price has drifted",
        "Since the signal came the market has moved further than signals.approval_drift_percent; approve it again with"
        " the price seen, or let it go.",
        soft=True,
    ),
    "CANARY": CodeInfo(
        "Waits for the canary",
        "One account of this release went first; this order follows once that one is filled.",
    ),
    "CANARY_TIMEOUT": CodeInfo(
        "Canary not filled in time",
        "The account that went first was not filled before the release's time was over.",
        soft=True,
    ),
    "CANARY_HALTED": CodeInfo(
        "Release halted",
        "So many orders of this release were rejected that what had not left was withheld.",
        soft=True,
    ),
    "STAGED_RELEASE": CodeInfo(
        "Staged release", "A release of which one account went first has come to another stage."
    ),
    "REJECTED_BY_OPERATOR": CodeInfo("Rejected by operator", "An operator rejected it."),
    # sizing
    "NO_QUANTITY": CodeInfo(
        "No quantity", "The account sizes by the signal's quantity and the signal has none."
    ),
    "NO_STOP": CodeInfo(
        "No stop loss", "The account sizes by risk and the signal has no stop loss."
    ),
    "NO_EQUITY": CodeInfo(
        "Equity unknown", "The account sizes by equity and the broker has not told it yet."
    ),
    "STOP_SIDE": CodeInfo(
        "Stop on the wrong side", "The stop loss lies on the profit side of the entry."
    ),
    "TARGET_SIDE": CodeInfo(
        "Target on the wrong side", "The take profit lies on the losing side of the price."
    ),
    "QTY_MIN": CodeInfo(
        "Too small", "The quantity rounds down to less than the smallest order of this instrument."
    ),
    # risk
    "QTY_MAX": CodeInfo(
        "Quantity limit", "The order is larger than the account's max_order_quantity."
    ),
    "VALUE_MIN": CodeInfo(
        "Too little value", "The order is worth less than the smallest this broker takes."
    ),
    "NOT_TRADABLE": CodeInfo(
        "Not tradable", "The broker does not trade this instrument at the moment."
    ),
    "VALUE_MAX": CodeInfo(
        "Value limit", "The order is worth more than the account's max_order_value."
    ),
    "COLLAR": CodeInfo(
        "Price collar", "The price lies further from the reference than limits.collar_percent."
    ),
    "REF_MISSING": CodeInfo(
        "No reference price",
        "There is no reference price for this symbol and limits.price_reference requires one.",
    ),
    "REF_STALE": CodeInfo(
        "Reference too old", "The newest reference price is older than limits.reference_max_age_s."
    ),
    "DRIFT": CodeInfo(
        "Price has moved",
        "The market is further from the producer's reference_price than limits.collar_percent.",
    ),
    "TICK": CodeInfo("Off the tick", "The price is not a multiple of the instrument's tick."),
    "RATE": CodeInfo(
        "Rate limit", "The account's, the address's or the firm's rate of orders is used up."
    ),
    "UNKNOWN_OPEN": CodeInfo(
        "Unknown order open",
        "An order of this account and symbol has no proven outcome; it must be resolved first.",
    ),
    # the controls that trip (engine.model.controls)
    "NOT_RECONCILED": CodeInfo(
        "Not reconciled",
        "The account's orders and positions have not been compared with its broker's since it connected.",
    ),
    "LIMITS_UNSET": CodeInfo(
        "No limits set",
        "A live account takes no entries before its max_order_quantity and max_order_value are set.",
    ),
    "POS_MAX": CodeInfo(
        "Position too large",
        "Position, working orders, unknown orders and this one together exceed max_position_quantity.",
    ),
    "OPEN_VALUE_MAX": CodeInfo(
        "Too much open",
        "The value of all open orders would exceed the account's or the firm's limit.",
    ),
    "EXPOSURE_MAX": CodeInfo(
        "Exposure limit",
        "Positions and open entries together would be worth more than the account's or the firm's limit.",
    ),
    "DAY_MAX": CodeInfo(
        "Orders for the day",
        "The account, the strategy or the firm has sent its orders of the day.",
    ),
    "UNREVIEWED": CodeInfo(
        "Waits for review of the strategy",
        "The strategy has had its automated executions; a person reviews it and lets it go on.",
    ),
    "REPEATED": CodeInfo(
        "Same content again",
        "A signal of another id asked for the same within signals.repeat_window_s.",
        soft=True,
    ),
    "RESTRICTED": CodeInfo("Restricted", "The symbol is on limits.restricted_symbols."),
    "INEXACT": CodeInfo(
        "Not a plain number",
        "A number is not finite, not positive or not on the instrument's grid.",
    ),
    "REJECT_STORM": CodeInfo(
        "Too many rejections",
        "The broker rejected too many of the account's or strategy's orders in a row; entries are off until a "
        "person resumes it.",
    ),
    "BREAKER_OPEN": CodeInfo(
        "Broker breaker open",
        "Too many of the broker's answers failed or did not come; entries wait until a read succeeds.",
    ),
    "CONSERVATION": CodeInfo(
        "More left than planned",
        "More orders or quantity left than were planned; everything is halted.",
    ),
    "DRIFTED": CodeInfo(
        "Not as expected",
        "The broker's orders, positions or cash differ from the journal's twice in a row; entries are off.",
    ),
    "CORPORATE_ACTION": CodeInfo(
        "Instrument changed",
        "The broker changed the instrument overnight (name, lot, tick, split); its position is looked at by a person.",
    ),
    "FOREIGN_ORDER": CodeInfo(
        "Foreign order",
        "A working order at the broker is none of ours; it is counted and not touched.",
    ),
    "DUPLICATE_ID": CodeInfo(
        "Another order's id",
        "The broker has another order under this order's id; the account is halted until a person has looked.",
    ),
    "BUSTED": CodeInfo(
        "Fill undone", "The broker has undone a fill; position, cash and P&L were taken back."
    ),
    "CLOCK": CodeInfo(
        "Clock is off",
        "This machine's clock differs too much from the brokers', or it was set back.",
    ),
    "EPOCH": CodeInfo(
        "Another writer", "Another engine has taken over this book; this one sends nothing."
    ),
    "OTHER_HOST": CodeInfo(
        "Copied from another machine",
        "This home was last used on another machine; a person makes sure that one is off and re-arms.",
    ),
    "OTHER_ACCOUNT": CodeInfo(
        "Another account's credentials",
        "The broker says that the credentials are those of another account than before; the account is halted.",
    ),
    "FINGERPRINT": CodeInfo(
        "Changed outside",
        "The configuration or the limits were changed by hand since the last stop.",
    ),
    "DESK_LOST": CodeInfo(
        "Desk lost",
        "No desk has been heard of for safety.desk_lost_after_s; safety.desk_lost was done.",
    ),
    "ENGINE_HUNG": CodeInfo(
        "Engine hung",
        "The engine gave no sign of life; the watchdog latched and canceled in its stead.",
    ),
    "KILL_INCOMPLETE": CodeInfo(
        "Kill incomplete", "Orders still work after the kill switch; look at the broker."
    ),
    "UNACKNOWLEDGED": CodeInfo(
        "Nobody acknowledged",
        "A critical alert was not acknowledged in safety.halt_unacknowledged_s.",
    ),
    "AUDIT_BROKEN": CodeInfo("Audit chain broken", "The audit trail was changed or cut off."),
    "FORBIDDEN": CodeInfo("Not allowed", "The operator's role does not include this command."),
    "PIN_REQUIRED": CodeInfo("PIN needed", "The command needs the operator's PIN."),
    "PIN_WRONG": CodeInfo("Wrong PIN", "The PIN is wrong; after five wrong ones there is a pause."),
    "QUARANTINED": CodeInfo(
        "Journal repaired",
        "The journal was damaged; what could be read was taken over, and a person looks before anything is sent.",
    ),
    "UNCLEAN_STOP": CodeInfo(
        "Stopped uncleanly",
        "The engine ended without closing its journal; what it had sent without an answer is being looked up.",
    ),
    # exits
    "EXIT_BLOCKED": CodeInfo(
        "Exit blocked",
        "A position's exit was reached and may not leave: a halt, or trading is not armed. The price is looked at "
        "again when that ends.",
    ),
    "EXIT_FAILED": CodeInfo(
        "Exit failed", "A position's exit came to nothing; it is tried again, later each time."
    ),
    "EXITS_REST": CodeInfo(
        "Exits rest at the broker",
        "Exits of the position rest at the broker and could not be taken back in time; closing it beside them could "
        "turn it around.",
    ),
    "EXITS_TAKEN_OVER": CodeInfo(
        "Exits taken over",
        "The broker does not work a position's exits any more; Volley watches them now.",
    ),
    "EXITS_UNCHANGED": CodeInfo(
        "Exits unchanged", "New stops were not taken by the broker; the old ones stand."
    ),
    "PROTECTIVE": CodeInfo(
        "Protects a position",
        "The order is an exit the broker works for a position; set its stops instead.",
    ),
    "SQUARE_OFF_MISSED": CodeInfo(
        "Square-off missed", "The account's square-off is over and it still holds positions."
    ),
    "UNKNOWN_ORDERS": CodeInfo(
        "Too much unknown",
        "More than two orders of the account, or one for more than a minute, have no proven outcome; it is halted "
        "until a person has looked and re-arms it.",
    ),
    # the way out
    "NOT_SENT": CodeInfo("Not sent", "Not a byte of the order left; it may be sent again."),
    "OUTCOME_UNKNOWN": CodeInfo(
        "Outcome unknown",
        "The order left and no proof of its fate came back; it is being looked up.",
    ),
    "BROKER_REJECTED": CodeInfo(
        "Rejected by broker", "The broker refused the order; its own words follow."
    ),
    "ABSENT": CodeInfo(
        "Proven absent", "The broker proves that it never had this order.", soft=True
    ),
    "LATE_ACCEPT": CodeInfo(
        "Accepted late",
        "The order was closed as absent, and the broker took it in after all; it is cancelled there.",
    ),
    "CANCELED": CodeInfo("Canceled", "A cancel signal came before it left."),
    "CANCELED_BY_OPERATOR": CodeInfo(
        "Canceled by hand", "An operator canceled it before it left.", soft=True
    ),
    "NO_CHANNEL": CodeInfo(
        "No alert channel",
        "alerts.channels names no address that can be used; `volley alerts test` tries them.",
    ),
    "ALERT_CHANNEL": CodeInfo(
        "Alerts do not get out",
        "A channel of [alerts] does not take messages; they are shown at the desk only.",
    ),
    "INTERNAL": CodeInfo(
        "Internal error", "Volley failed to handle this; the log has the details."
    ),
}
