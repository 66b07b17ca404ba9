"""Dialogs by name: each takes the desk and its subject, is never modal, and closes on Escape without harm."""

from __future__ import annotations

from gui.dialogs.base import Dialog
from gui.dialogs.confirm import ConfirmDialog
from gui.dialogs.help import AboutDialog, ShortcutsDialog
from gui.dialogs.limits import LimitsDialog
from gui.dialogs.log_in import LogInDialog
from gui.dialogs.orders import ReplaceDialog, ResolveDialog
from gui.dialogs.palette import PaletteDialog
from gui.dialogs.pin import PinDialog
from gui.dialogs.rearm import RearmDialog
from gui.dialogs.review import ApproveDialog, ForceDialog
from gui.dialogs.stops import StopsDialog
from gui.dialogs.ticket import TicketDialog
from gui.dialogs.token import TokenDialog

ALL: dict[str, type[Dialog]] = {
    "about": AboutDialog,
    "approve": ApproveDialog,
    "confirm": ConfirmDialog,
    "force": ForceDialog,
    "limits": LimitsDialog,
    "log_in": LogInDialog,
    "palette": PaletteDialog,
    "pin": PinDialog,
    "rearm": RearmDialog,
    "replace": ReplaceDialog,
    "resolve": ResolveDialog,
    "shortcuts": ShortcutsDialog,
    "stops": StopsDialog,
    "ticket": TicketDialog,
    "token": TokenDialog,
}
