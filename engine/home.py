"""HOME: where one engine keeps its files, its token, its webhooks' secrets and its lock."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import platformdirs

from engine.errors import ConfigError, HomeLocked
from engine.file_lock import try_lock, unlock
from engine.model.identifiers import NAME

TOKEN_VARIABLE: Final = "VOLLEY_TOKEN"  # noqa: S105 (the variable's name, not its value)
_SECRET_BYTES: Final = 32
_MIN_TOKEN: Final = 16  # characters of a token a person put into the file
_LOCK_PATIENCE_S: Final = 0.3  # a probe (running_engine) may hold the lock for an instant


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """A running engine: its process id, the URL its API listens on, when it began to listen."""

    pid: int
    url: str
    started_at: str


class Home:
    """The directory of one engine. Creates it (mode 0700) when it is not there.

    Raises:
        ConfigError: the directory cannot be made or is none.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        chosen = Path(path) if path is not None else default_home()
        self.path = chosen.expanduser().absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--home {self.path}: cannot be used as data directory: {error.strerror}"
            ) from None
        self.config_file = self.path / "volley.toml"
        self.journal = self.path / "journal.sqlite3"
        self.token_file = self.path / "token"
        self.engine_file = self.path / "engine.json"
        self.hooks_file = self.path / "hooks.json"
        self.lock_file = self.path / "lock"
        self.layout_file = self.path / "layout.json"
        self.log_dir = self.path / "logs"
        self.log_file = self.log_dir / "engine.log"
        self._hooks: tuple[tuple[int, int, int], dict[str, str]] | None = None

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    def token(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the API's bearer token: ``VOLLEY_TOKEN``, else the file's, made if there is none.

        Raises:
            ConfigError: it has characters no HTTP header carries, or the file's is too short.
        """
        given = (os.environ if environ is None else environ).get(TOKEN_VARIABLE, "")
        if given:
            if not _is_token(given):
                raise ConfigError(f"{TOKEN_VARIABLE}: expected printable ASCII without blanks")
            return given
        with self._guard():
            token = _read_private(self.token_file)
            if not token:  # none yet, or made by a process that died before writing
                token = secrets.token_urlsafe(_SECRET_BYTES)
                _write_atomic(self.token_file, token.encode() + b"\n")
        if len(token) < _MIN_TOKEN or not _is_token(token):
            raise ConfigError(
                f"{self.token_file}: expected {_MIN_TOKEN} or more printable ASCII characters; "
                "remove the file and a new token is made at the next start"
            )
        return token

    def lock(self) -> HomeLock:
        """Take this home for the calling engine; the system frees it when the process ends.

        Raises:
            HomeLocked: another engine holds it; the text names its process.
        """
        lock = HomeLock(self.lock_file)
        self.engine_file.unlink(missing_ok=True)  # what a killed engine left
        return lock

    def publish_engine(self, url: str) -> EngineInfo:
        """Tell other processes where this engine listens. Only the holder of the lock may."""
        info = EngineInfo(os.getpid(), url, datetime.now(UTC).isoformat(timespec="milliseconds"))
        write_json_atomic(self.engine_file, asdict(info))
        return info

    def withdraw_engine(self) -> None:
        """Take back ``publish_engine``, at a clean stop and before the lock is released."""
        self.engine_file.unlink(missing_ok=True)

    def running_engine(self) -> EngineInfo | None:
        """Return the engine that holds this home and listens, or ``None``; never a stale one."""
        holder = lock_holder(self.lock_file)
        if holder is None:
            return None
        try:
            content = json.loads(self.engine_file.read_text("utf-8"))
            info = EngineInfo(int(content["pid"]), str(content["url"]), str(content["started_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A file of an engine that was killed says nothing about the one now starting.
        return info if info.pid == holder.get("pid") else None

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the short lock under which processes sharing this home write its small files."""
        with _open_lock(self.path / ".guard") as file:
            while not try_lock(file.fileno()):
                time.sleep(0.005)
            try:
                yield
            finally:
                unlock(file.fileno())

    def _hook_secrets(self) -> dict[str, str]:
        try:
            stat = self.hooks_file.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._hooks is None or self._hooks[0] != stamp:
            try:
                content = json.loads(_read_private(self.hooks_file))
            except ValueError:
                content = None
            if not isinstance(content, dict) or not all(
                isinstance(secret, str) and secret for secret in content.values()
            ):
                raise ConfigError(
                    f"{self.hooks_file}: expected a JSON object of source to secret; remove the "
                    "file to have new secrets made"
                )
            self._hooks = (stamp, content)
        return self._hooks[1]


class HomeLock:
    """The exclusive hold of one engine on its home. Also a context manager.

    Raises:
        HomeLocked: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        file = _open_lock(path)
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while not try_lock(file.fileno()):
            if time.monotonic() > deadline:
                file.close()
                raise HomeLocked(_held(path))
            time.sleep(0.01)
        self._file: IO[bytes] | None = file
        content = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.seek(0)
        file.truncate()
        file.write(json.dumps(content).encode())
        file.flush()

    def release(self) -> None:
        """Give the home free; may be called again."""
        file, self._file = self._file, None
        if file is None:
            return
        file.seek(0)
        file.truncate()
        file.flush()
        unlock(file.fileno())
        file.close()

    def __enter__(self) -> HomeLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def default_home() -> Path:
    """Return the platform's data directory for this program."""
    return Path(platformdirs.user_data_dir("volley", appauthor=False))


def lock_holder(path: Path) -> dict[str, Any] | None:
    """Return what the holder of the lock at ``path`` wrote, ``None`` if it is free."""
    if not path.exists():
        return None
    with _open_lock(path) as file:
        if try_lock(file.fileno()):
            unlock(file.fileno())
            return None
        try:
            content = json.loads(file.read(4096))
        except ValueError:
            return {}
    return content if isinstance(content, dict) else {}


def hook_secret(home: Home, source: str) -> str:
    """Return the secret of ``source``'s webhook address, made (256 bits, URL-safe) on first demand.

    Raises:
        ConfigError: ``source`` is no name, or ``hooks.json`` cannot be read.
    """
    if not NAME.fullmatch(source):
        raise ConfigError(f"{source[:80]!a}: expected 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    with home._guard():  # noqa: SLF001 (one module)
        known = home._hook_secrets()  # noqa: SLF001
        if source not in known:
            known = {**known, source: secrets.token_urlsafe(_SECRET_BYTES)}
            write_json_atomic(home.hooks_file, known)
    return known[source]


def check_hook(home: Home, source: str, secret: str) -> bool:
    """Say whether ``secret`` is ``source``'s, in time that does not depend on where they differ."""
    known = home._hook_secrets().get(source)  # noqa: SLF001
    expected = known if known is not None else secrets.token_urlsafe(_SECRET_BYTES)
    same = hmac.compare_digest(expected.encode(), secret.encode("utf-8", "replace"))
    return same and known is not None


def write_json_atomic(path: Path, value: object) -> None:
    """Write ``value`` as JSON (mode 0600); a reader or a crash sees the old file or the new one."""
    _write_atomic(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def _write_atomic(path: Path, content: bytes) -> None:
    # mkstemp opens with O_EXCL and mode 0600.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if os.name == "posix":  # the rename itself must reach the disk
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _read_private(path: Path) -> str:
    """Return the file's text without its newline, "" if there is none; close it to others first."""
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                os.chmod(path, 0o600)
            return file.read(1 << 20).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and len(text) <= 512


def _held(path: Path) -> str:
    holder = lock_holder(path) or {}
    who = f"process {holder['pid']}" if "pid" in holder else "another process"
    where = f" on {holder['host']}" if "host" in holder else ""
    since = f" since {holder['started_at']}" if "started_at" in holder else ""
    return f"another engine holds {path.parent}: {who}{where}{since}"


def _open_lock(path: Path) -> IO[bytes]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    return os.fdopen(handle, "r+b", buffering=0)
