"""The desk's small JSON files in HOME: read with forgiveness, replaced whole."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def read(path: Path) -> dict[str, Any]:
    """Return a file's document; one that is missing or cannot be read is empty."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, using the default: %s", path.name, error)
        return {}
    return document if isinstance(document, dict) else {}


def write(path: Path, document: dict[str, Any]) -> str:
    """Replace a file; a crash in between leaves the old one. Returns why it could not be written, else nothing."""
    fresh = path.with_suffix(path.suffix + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(document, indent=1), "utf-8")
        os.replace(fresh, path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path.name, error)
        return str(error)
    return ""
