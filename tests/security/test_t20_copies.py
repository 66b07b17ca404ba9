"""T20, exports, copies and what people send for support: none of it holds a secret in the open."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.model.account import Account
from engine.model.tables import COLUMNS
from engine.stores.vault import FileVault
from tests.e2e.test_canary import hits
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    volley,
    write_config,
)

SECRET = "cnry-in-a-copy+/=&%r3~Xc"


def test_no_exported_column_is_for_secrets() -> None:
    for table in ("orders", "fills", "signals", "positions", "accounts"):
        for column in COLUMNS[table]:
            assert not any(
                word in column
                for word in ("secret", "token", "credential", "password", "pin_", "key_id")
            ), column


def test_an_account_shown_has_names_of_credentials_only() -> None:
    account = Account.model_validate(
        alpaca(1, "http://127.0.0.1:1", credentials={"key_id": SECRET, "secret": SECRET})
    )
    assert account.public()["credentials"] == ["key_id", "secret"]
    assert not hits("public", repr(account.public()).encode(), {"it": SECRET})
    assert not hits("repr", (repr(account) + str(account)).encode(), {"it": SECRET})


def test_a_backup_of_the_home_and_every_export_is_free_of_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    outputs: list[tuple[str, bytes]] = []
    with VenueProcess(tmp_path, "--still") as venue:
        write_config(home, log={"level": "DEBUG"})
        key = alpaca(1, venue.url)["credentials"]["key_id"]
        import_accounts(home, [alpaca(1, venue.url, credentials={"key_id": key, "secret": SECRET})])
        with EngineProcess(home) as engine:
            engine.wait_connected(1)
            assert engine.signal(id="s-1").status_code == 202
            for table in ("orders", "fills", "signals", "positions"):
                for form in ("csv", "jsonl", "xlsx"):
                    out = tmp_path / f"{table}.{form}"
                    assert (
                        volley(
                            home, "export", table, "--format", form, "--out", str(out)
                        ).returncode
                        == 0
                    )
                    outputs.append((out.name, out.read_bytes()))
            for arguments in (
                ["accounts", "show", "A-001"],
                ["accounts", "list", "--json"],
                ["doctor", "--json"],
                ["status", "--json"],
            ):
                done = volley(home, *arguments)
                outputs.append((" ".join(arguments), (done.stdout + done.stderr).encode()))
    with tarfile.open(tmp_path / "backup.tar", "w") as archive:
        archive.add(home, "home")
    outputs.append(("the backup", (tmp_path / "backup.tar").read_bytes()))
    assert not [line for name, content in outputs for line in hits(name, content, {"it": SECRET})]
    # And what is sealed in it opens nowhere else.
    shutil.copytree(home, tmp_path / "elsewhere")
    monkeypatch.setenv("VOLLEY_KEY_DIR", str(tmp_path / "no-keys"))
    with pytest.raises(ConfigError, match="another machine"):
        FileVault(tmp_path / "elsewhere", keyring=None).derive("anything")
