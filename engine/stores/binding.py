"""What ties a home to the machine and place it was last used at, so that a copy of it is known as one (control C27).

A copy holds the same book: the same ids, the same working orders. Two engines on it, each believing to be the only
one, would both carry out what the other has planned. A home is a copy when it is used on another machine, or at
another path by another file; one that was only moved, or put back at its old place, is none.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

_LINUX_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")


@dataclass(frozen=True, slots=True)
class Binding:
    """A machine (a digest of its id, and its name for people) and the journal's file on it."""

    machine: str
    host: str
    path: str
    inode: int

    @classmethod
    def of(cls, journal: Path) -> Binding:
        """Return the binding of a journal that is there."""
        path = journal.resolve()
        return cls(machine_digest(), socket.gethostname(), str(path), path.stat().st_ino)

    def text(self) -> str:
        """Write it for the journal's ``meta``."""
        return json.dumps(asdict(self), sort_keys=True)

    def copied_from(self, stored: str) -> str:
        """Say where the home was used last if this is a copy of that, in words; empty if it is none."""
        try:
            before = Binding(**json.loads(stored))
        except (ValueError, TypeError):
            return "an unknown place"
        if before.machine != self.machine:
            return f"another machine ({before.host})"
        if before.path != self.path and before.inode != self.inode:
            return f"another home ({before.path})"
        return ""


def machine_digest() -> str:
    """Return a digest that is this machine's own; its id itself stays with the system (machine-id(5))."""
    raw = machine_id() or socket.gethostname()
    return hashlib.sha256(f"volley {raw}".encode()).hexdigest()


def machine_id() -> str:
    """Return what this system calls itself, for keys made of it; never stored. Empty where it says nothing."""
    try:
        if sys.platform == "win32":
            import winreg

            with winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography"
            ) as key:
                return str(winreg.QueryValueEx(key, "MachineGuid")[0])
        if sys.platform == "darwin":
            said = subprocess.run(
                ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"],
                capture_output=True, text=True, timeout=5, check=True,
            ).stdout  # fmt: skip
            return next((line for line in said.splitlines() if "IOPlatformUUID" in line), "")
        for name in _LINUX_IDS:
            if (file := Path(name)).exists():
                return file.read_text("ascii").strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return ""
