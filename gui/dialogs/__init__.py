"""Dialogs by name: each takes the desk and its subject, is never modal, and closes on Escape without harm."""

from __future__ import annotations

from gui.dialogs.accounts import AccountsDialog
from gui.dialogs.base import Dialog
from gui.dialogs.close_part import ClosePartDialog
from gui.dialogs.codes import CodesDialog
from gui.dialogs.comparison import ComparisonDialog
from gui.dialogs.confirm import ConfirmDialog
from gui.dialogs.export import ExportDialog
from gui.dialogs.help import AboutDialog, ShortcutsDialog
from gui.dialogs.keys import KeysDialog
from gui.dialogs.layouts import LayoutsDialog
from gui.dialogs.limits import LimitsDialog
from gui.dialogs.log_in import LogInDialog
from gui.dialogs.note import NoteDialog
from gui.dialogs.orders import ReplaceDialog, ResolveDialog, WhyDialog
from gui.dialogs.palette import PaletteDialog
from gui.dialogs.pin import PinDialog
from gui.dialogs.preferences import PreferencesDialog
from gui.dialogs.rearm import RearmDialog
from gui.dialogs.recording import RecordingDialog
from gui.dialogs.report import ReportDialog
from gui.dialogs.rerun import RerunDialog
from gui.dialogs.review import ApproveDialog, ForceDialog
from gui.dialogs.save_view import SaveViewDialog
from gui.dialogs.scope import ScopeDialog
from gui.dialogs.stops import StopsDialog
from gui.dialogs.ticket import TicketDialog
from gui.dialogs.token import TokenDialog

ALL: dict[str, type[Dialog]] = {
    "about": AboutDialog,
    "accounts": AccountsDialog,
    "approve": ApproveDialog,
    "codes": CodesDialog,
    "close_part": ClosePartDialog,
    "comparison": ComparisonDialog,
    "confirm": ConfirmDialog,
    "export": ExportDialog,
    "force": ForceDialog,
    "keys": KeysDialog,
    "layouts": LayoutsDialog,
    "limits": LimitsDialog,
    "log_in": LogInDialog,
    "note": NoteDialog,
    "palette": PaletteDialog,
    "pin": PinDialog,
    "preferences": PreferencesDialog,
    "rearm": RearmDialog,
    "recording": RecordingDialog,
    "replace": ReplaceDialog,
    "report": ReportDialog,
    "rerun": RerunDialog,
    "resolve": ResolveDialog,
    "scope": ScopeDialog,
    "save_view": SaveViewDialog,
    "shortcuts": ShortcutsDialog,
    "stops": StopsDialog,
    "ticket": TicketDialog,
    "token": TokenDialog,
    "why": WhyDialog,
}
