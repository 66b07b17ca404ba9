"""Sounds: short tones made here, played by what the system has; no multimedia library for three beeps."""

from __future__ import annotations

import math
import shutil
import struct
import sys
import tempfile
import wave
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from PySide6.QtCore import QProcess
from PySide6.QtWidgets import QApplication

RATE: Final = 22_050
TONES: Final = {
    "info": ((660, 90),),
    "warning": ((740, 130), (0, 60), (740, 130)),
    "critical": ((980, 150), (0, 50), (740, 150), (0, 50), (980, 150), (0, 50), (740, 240)),
}
"""Hertz and milliseconds, by severity; 0 is a pause."""
_PLAYERS: Final = ("paplay", "pw-play", "aplay", "afplay")
_LOUD: Final = 0.35


def tone(severity: str) -> bytes:
    """Return a severity's sound as 16-bit samples."""
    samples: list[int] = []
    for hertz, ms in TONES[severity]:
        count = RATE * ms // 1_000
        for at in range(count):
            fade = min(1.0, at / 200, (count - at) / 200)  # no click at the ends
            samples.append(round(32_767 * _LOUD * fade * math.sin(2 * math.pi * hertz * at / RATE)))
    return struct.pack(f"<{len(samples)}h", *samples)


@lru_cache(maxsize=len(TONES))
def file_of(severity: str) -> Path:
    """Return a file with a severity's sound; made once in each run."""
    path = _directory() / f"{severity}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tone(severity))
    return path


@lru_cache(maxsize=1)
def _keeper() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="volley-sounds-")


def _directory() -> Path:
    return Path(_keeper().name)


def player() -> Callable[[Path], object]:
    """Return what plays a file without waiting for its end; the system's beep where there is no player."""
    if sys.platform == "win32":
        import winsound

        flags = winsound.SND_FILENAME | winsound.SND_ASYNC | winsound.SND_NODEFAULT
        return lambda path: winsound.PlaySound(str(path), flags)
    program = next((found for name in _PLAYERS if (found := shutil.which(name))), None)
    if program is None:
        return lambda _path: QApplication.beep()
    return lambda path: QProcess.startDetached(program, [str(path)])
