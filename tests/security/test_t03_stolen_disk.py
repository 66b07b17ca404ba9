"""T03, a stolen laptop or a copied home: what lies in the home opens nothing without this machine or a passphrase."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from engine import argon
from engine.errors import ConfigError
from engine.stores import vault_key
from engine.stores.vault import FileVault, system_keyring
from engine.stores.vault_key import key_directory
from tests.e2e.test_canary import hits
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    volley,
    write_config,
)

SECRET = "cnry-at-rest+/=&%k1~9Zx"
PHRASE = "correct horse battery staple"


def everything_in(home: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def seal_in(home: Path) -> tuple[FileVault, str]:
    vault = FileVault(home, keyring=None)
    return vault, vault.seal("A-1", "secret", SECRET)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for keys that is empty, as on another machine."""
    monkeypatch.setenv("VOLLEY_KEY_DIR", str(tmp_path / "other-keys"))
    return tmp_path / "other-keys"


def test_a_copied_home_shows_no_secret_and_no_key(tmp_path: Path) -> None:
    vault, _ = seal_in(tmp_path / "home")
    (tmp_path / "home" / "accounts.json").write_text(vault.seal("A-2", "secret", SECRET))
    key = vault.files.open(vault.files.entries()[0])
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    found = everything_in(tmp_path / "copy")
    assert not hits("the copy", found, {"it": SECRET})
    for form in (key, b64encode(key), key.hex().encode()):
        assert form not in found


def test_a_copied_home_opens_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sealed = seal_in(tmp_path / "home")
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    assert (
        FileVault(tmp_path / "copy", keyring=None).reveal("A-1", "secret", sealed) == SECRET
    )  # here it does
    keys, others = key_directory(), tmp_path / "keys"
    monkeypatch.setenv("VOLLEY_KEY_DIR", str(others))
    with pytest.raises(ConfigError, match="another machine"):
        FileVault(tmp_path / "copy", keyring=None).reveal("A-1", "secret", sealed)
    shutil.copytree(keys, others)  # the thief has the key file too
    monkeypatch.setattr(vault_key, "machine_id", lambda: "another machine")
    with pytest.raises(ConfigError, match="another machine"):
        FileVault(tmp_path / "copy", keyring=None).reveal("A-1", "secret", sealed)


def test_another_user_of_this_machine_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sealed = seal_in(tmp_path)
    monkeypatch.setattr(vault_key, "_user_id", lambda: "another user")
    with pytest.raises(ConfigError, match="another user"):
        FileVault(tmp_path, keyring=None).reveal("A-1", "secret", sealed)


def test_the_key_is_nowhere_in_the_home_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLLEY_KEY_DIR", str(tmp_path / "keys"))
    seal_in(tmp_path / "home")
    [key_file] = (tmp_path / "keys").iterdir()
    if os.name == "posix":
        assert key_file.stat().st_mode & 0o077 == 0
        assert key_file.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("VOLLEY_KEY_DIR", str(tmp_path / "home" / "keys"))
    with pytest.raises(ConfigError, match="inside the home"):
        FileVault(tmp_path / "home", keyring=None).reveal(
            "A-1", "secret", "enc:v1:" + b64encode(bytes(40)).decode()
        )


def test_a_key_of_an_earlier_version_is_taken_out_of_the_home(tmp_path: Path) -> None:
    key = os.urandom(32)
    old = tmp_path / "vault.key"
    old.write_text(f"v1:key:{b64encode(key).decode()}\n")
    vault = FileVault(tmp_path, keyring=None)
    assert vault.reveal("A-1", "secret", vault.seal("A-1", "secret", SECRET)) == SECRET
    found = everything_in(tmp_path)
    assert key not in found
    assert b64encode(key) not in found
    assert vault.kept() == "machine"
    assert vault.files.open(vault.files.entries()[0]) == key  # what was sealed with it still opens


def test_a_practice_home_that_gets_a_real_secret_keeps_its_key_no_longer(tmp_path: Path) -> None:
    practice = FileVault(tmp_path, practice=True)
    sealed = practice.seal("D-1", "secret", "practice-only")
    assert practice.kept() == "practice"
    vault = FileVault(tmp_path, keyring=None)
    assert vault.reveal("D-1", "secret", sealed) == "practice-only"
    assert vault.kept() == "practice"
    vault.seal("A-1", "secret", SECRET)
    assert FileVault(tmp_path, keyring=None).kept() == "machine"
    assert "key" not in vault.files.entries()[0]


def test_a_passphrase_opens_on_any_machine_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setenv("VOLLEY_PASSPHRASE", PHRASE)
    vault, sealed = seal_in(tmp_path / "home")
    assert vault.kept() == "passphrase"
    assert not elsewhere.exists()
    assert not hits("the home", everything_in(tmp_path / "home"), {"it": SECRET, "phrase": PHRASE})
    monkeypatch.setattr(vault_key, "machine_id", lambda: "another machine")
    assert FileVault(tmp_path / "home", keyring=None).reveal("A-1", "secret", sealed) == SECRET
    monkeypatch.setenv("VOLLEY_PASSPHRASE", PHRASE + "r")
    with pytest.raises(ConfigError, match="does not open") as caught:
        FileVault(tmp_path / "home", keyring=None).unlock()
    assert PHRASE not in str(caught.value)
    monkeypatch.delenv("VOLLEY_PASSPHRASE")
    with pytest.raises(ConfigError, match="VOLLEY_PASSPHRASE"):
        FileVault(tmp_path / "home", keyring=None).unlock()


def test_argon2id_has_the_parameters_of_the_specification() -> None:
    stored = argon.hash_pin("2468")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert argon.check_pin("2468", stored)
    assert not argon.check_pin("2469", stored)
    assert not argon.check_pin("2468", "$argon2id$nonsense")
    assert argon.hash_pin("2468") != stored


def test_every_flipped_bit_of_the_key_file_fails(tmp_path: Path) -> None:
    _, sealed = seal_in(tmp_path)
    entry = json.loads((tmp_path / "vault.key").read_text())["keys"][0]
    path = key_directory() / entry["id"]
    whole = path.read_text()
    raw = b64decode(whole)
    for place in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        path.write_text(b64encode(changed).decode())
        with pytest.raises(ConfigError):
            FileVault(tmp_path, keyring=None).reveal("A-1", "secret", sealed)
    path.write_text(whole)
    assert FileVault(tmp_path, keyring=None).reveal("A-1", "secret", sealed) == SECRET


def test_a_plaintext_keyring_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    class PlaintextKeyring(KeyringBackend):
        priority = 0
        __module__ = "keyrings.alt.file"

        def get_password(self, service: str, username: str) -> str | None:
            raise AssertionError

        def set_password(self, service: str, username: str, password: str) -> None:
            raise AssertionError

    monkeypatch.setattr(keyring, "get_keyring", PlaintextKeyring)
    assert system_keyring() is None


def test_import_rotate_lock_and_unlock_with_the_program_itself(tmp_path: Path) -> None:
    """A fresh machine without keyring: literal credentials, then an engine; then other keys under the same account."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with VenueProcess(tmp_path, "--still") as venue:
        write_config(home)
        key = alpaca(1, venue.url)["credentials"]["key_id"]
        import_accounts(home, [alpaca(1, venue.url, credentials={"key_id": key, "secret": SECRET})])
        stored = (home / "accounts.sqlite3").read_bytes()
        for arguments, environment, kept in (
            (["vault", "rotate"], {}, "machine"),
            (["vault", "passphrase"], {"VOLLEY_NEW_PASSPHRASE": PHRASE}, "passphrase"),
            (["vault", "rotate"], {"VOLLEY_PASSPHRASE": PHRASE}, "passphrase"),
            (["vault", "passphrase", "--remove"], {"VOLLEY_PASSPHRASE": PHRASE}, "machine"),
        ):
            done = volley(home, *arguments, "--json", **environment)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == {"kept": kept, "sealed": 2}
            after = (home / "accounts.sqlite3").read_bytes()
            assert after != stored
            stored = after
            assert PHRASE not in done.stdout + done.stderr
            if kept == "passphrase":
                locked = volley(home, "engine", "--for", "1")
                assert locked.returncode == 2
                assert "VOLLEY_PASSPHRASE" in locked.stderr
                environ = {"VOLLEY_PASSPHRASE": PHRASE}
            else:
                environ = {}
            with EngineProcess(home, **environ) as engine:
                engine.wait_connected(1)
        assert not hits("the home", everything_in(home), {"secret": SECRET, "phrase": PHRASE})


@pytest.mark.parametrize("kept", ["", "passphrase"])
def test_a_rotation_cut_short_loses_nothing(
    tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, first = seal_in(tmp_path)
    second = vault.seal("A-2", "secret", SECRET)
    vault.begin_rotation(kept, lambda: PHRASE)
    fresh = vault.reseal("A-1", "secret", first)  # and here the power went
    monkeypatch.setenv("VOLLEY_PASSPHRASE", PHRASE)
    again = FileVault(tmp_path, keyring=None)
    assert "interrupted" in again.describe()
    assert again.reveal("A-1", "secret", fresh) == SECRET
    assert again.reveal("A-2", "secret", second) == SECRET
    again.begin_rotation(kept, lambda: PHRASE)
    sealed = [again.reseal("A-1", "secret", fresh), again.reseal("A-2", "secret", second)]
    again.end_rotation()
    last = FileVault(tmp_path, keyring=None)
    assert [last.reveal("A-1", "secret", sealed[0]), last.reveal("A-2", "secret", sealed[1])] == [
        SECRET
    ] * 2
    with pytest.raises(ConfigError, match="cannot be decrypted"):
        last.reveal("A-2", "secret", second)


# Ciphertext moved between accounts, and every flipped bit of it: tests/unit/test_vault.py
