from __future__ import annotations

import os
import threading
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from keyring.backend import KeyringBackend
from keyring.errors import NoKeyringError

from engine.errors import ConfigError
from engine.stores import vault as vault_module
from engine.stores.vault import FileVault, system_keyring

SECRET = "canary-s3cr3t-ünïcode"


class MemoryKeyring(KeyringBackend):
    priority = 0  # never chosen by the library on its own

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


class BrokenKeyring(MemoryKeyring):
    priority = 0

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NoKeyringError

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError(f"backend says {SECRET}")


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    return FileVault(tmp_path, keyring=None)


def test_literal_text_is_encrypted_and_comes_back_from_a_new_vault(tmp_path: Path) -> None:
    sealed = FileVault(tmp_path, keyring=None).seal("A-1", "secret", SECRET)
    assert sealed.startswith("enc:v1:")
    assert SECRET not in sealed
    assert SECRET.encode() not in b64decode(sealed.removeprefix("enc:v1:"))
    assert FileVault(tmp_path, keyring=None).reveal("A-1", "secret", sealed) == SECRET


def test_every_sealing_has_its_own_nonce(vault: FileVault) -> None:
    sealed = {vault.seal("A-1", "secret", SECRET) for _ in range(1000)}
    assert len({b64decode(text.removeprefix("enc:v1:"))[:12] for text in sealed}) == 1000


def test_references_stay_as_they_are_and_touch_no_key(vault: FileVault, tmp_path: Path) -> None:
    assert vault.seal("A-1", "k", "env:ALICE_KEY") == "env:ALICE_KEY"
    assert vault.seal("A-1", "k", "keyring:alice") == "keyring:alice"
    assert list(tmp_path.iterdir()) == []


def test_ciphertext_given_again_stays(vault: FileVault) -> None:
    sealed = vault.seal("A-1", "secret", SECRET)
    assert vault.seal("A-1", "secret", sealed) == sealed
    with pytest.raises(ConfigError, match="A-2"):
        vault.seal("A-2", "secret", sealed)


@pytest.mark.parametrize(
    ("account", "name"), [("A-2", "secret"), ("A-1", "key_id"), ("A", "-1secret")]
)
def test_ciphertext_moved_elsewhere_fails(vault: FileVault, account: str, name: str) -> None:
    sealed = vault.seal("A-1", "secret", SECRET)
    with pytest.raises(ConfigError, match=f"{name} of account {account}") as caught:
        vault.reveal(account, name, sealed)
    assert SECRET not in str(caught.value)


def test_every_flipped_bit_fails(vault: FileVault) -> None:
    sealed = vault.seal("A-1", "secret", SECRET)
    raw = b64decode(sealed.removeprefix("enc:v1:"))
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            with pytest.raises(ConfigError):
                vault.reveal("A-1", "secret", "enc:v1:" + b64encode(changed).decode())


def test_every_changed_character_fails(vault: FileVault) -> None:
    for length in range(1, 4):  # all three base64 paddings
        sealed = vault.seal("A-1", "secret", "x" * length)
        for position in range(len(sealed)):
            for bit in range(7):
                changed = chr(ord(sealed[position]) ^ 1 << bit)
                text = sealed[:position] + changed + sealed[position + 1 :]
                with pytest.raises(ConfigError):
                    vault.reveal("A-1", "secret", text)


@pytest.mark.parametrize("stored", ["", "enc:v1:", "enc:v1:AAAA", "enc:v2:AAAA", SECRET, "env:A B"])
def test_what_is_no_stored_credential_is_refused_without_quoting_it(
    vault: FileVault, stored: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        vault.reveal("A-1", "secret", stored)
    assert "A-1" in str(caught.value)
    assert not stored or stored not in str(caught.value)


def test_malformed_references_and_empty_text_are_refused_at_the_door(vault: FileVault) -> None:
    for text in ("", "env:", "keyring:", "env:TWO WORDS"):
        with pytest.raises(ConfigError, match="A-1"):
            vault.seal("A-1", "secret", text)


def test_environment_variable(vault: FileVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALICE_KEY", SECRET)
    assert vault.reveal("A-001", "key_id", "env:ALICE_KEY") == SECRET
    monkeypatch.delenv("ALICE_KEY")
    with pytest.raises(ConfigError) as caught:
        vault.reveal("A-001", "key_id", "env:ALICE_KEY")
    assert str(caught.value).startswith("set the environment variable ALICE_KEY of account A-001")


def test_keyring_entry(tmp_path: Path) -> None:
    keyring = MemoryKeyring()
    keyring.set_password("volley", "alice", SECRET)
    vault = FileVault(tmp_path, keyring=keyring)
    assert vault.reveal("A-1", "secret", "keyring:alice") == SECRET
    with pytest.raises(ConfigError, match="keyring set volley bob"):
        vault.reveal("A-1", "secret", "keyring:bob")
    with pytest.raises(ConfigError, match="no entry alice"):
        FileVault(tmp_path, keyring=None).reveal("A-1", "secret", "keyring:alice")


def test_a_keyring_that_works_keeps_the_key(tmp_path: Path) -> None:
    keyring = MemoryKeyring()
    vault = FileVault(tmp_path, keyring=keyring)
    assert vault.describe() == "no secret has been stored yet"
    sealed = vault.seal("A-1", "secret", SECRET)
    [(_, key)] = keyring.entries.items()
    assert key not in (tmp_path / "vault.key").read_text()
    assert "operating system's keyring" in vault.describe()
    assert FileVault(tmp_path, keyring=keyring).reveal("A-1", "secret", sealed) == SECRET
    with pytest.raises(ConfigError, match="not in the keyring"):
        FileVault(tmp_path, keyring=MemoryKeyring()).reveal("A-1", "secret", sealed)
    with pytest.raises(ConfigError, match="does not answer") as caught:
        FileVault(tmp_path, keyring=BrokenKeyring()).reveal("A-1", "secret", sealed)
    assert SECRET not in str(caught.value)


def test_a_keyring_that_fails_leaves_the_key_outside_the_home(tmp_path: Path) -> None:
    vault = FileVault(tmp_path, keyring=BrokenKeyring())
    sealed = vault.seal("A-1", "secret", SECRET)
    assert "bound to this machine" in vault.describe()
    assert FileVault(tmp_path, keyring=None).reveal("A-1", "secret", sealed) == SECRET
    assert [path.name for path in tmp_path.iterdir()] == ["vault.key"]
    if os.name == "posix":
        assert (tmp_path / "vault.key").stat().st_mode & 0o777 == 0o600


def test_a_null_or_failing_system_backend_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring
    from keyring.backends import chainer, fail, null

    for backend in (fail.Keyring(), null.Keyring(), chainer.ChainerBackend(), MemoryKeyring()):
        monkeypatch.setattr(keyring, "get_keyring", lambda backend=backend: backend)
        assert system_keyring() is None
    monkeypatch.setattr(vault_module, "_SAFE_BACKENDS", (MemoryKeyring.__module__,))
    assert isinstance(system_keyring(), MemoryKeyring)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "v1",
        "v1:key:",
        "v1:key:AAAA",
        "v2:key:AAAA",
        "v1:other:x",
        "\x00\xff",
        "{}",
        '{"keys": []}',
        '{"keys": [{"kept": "machine", "id": "../x"}]}',
    ],
)
def test_a_damaged_key_file_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "vault.key").write_text(content, "utf-8")
    with pytest.raises(ConfigError, match="damaged"):
        FileVault(tmp_path, keyring=None).seal("A-1", "secret", SECRET)


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    gate = threading.Barrier(16)
    sealed: list[str] = []

    def first_use() -> None:
        vault = FileVault(tmp_path, keyring=None)
        gate.wait()
        sealed.append(vault.seal("A-1", "secret", SECRET))

    threads = [threading.Thread(target=first_use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = FileVault(tmp_path, keyring=None)
    assert [reader.reveal("A-1", "secret", text) for text in sealed] == [SECRET] * 16
    assert [path.name for path in tmp_path.iterdir()] == ["vault.key"]


def test_nothing_shows_in_a_repr(vault: FileVault) -> None:
    vault.seal("A-1", "secret", SECRET)
    key = b64encode(vault.files.open(vault.files.entries()[0])).decode()
    assert key not in repr(vault) + str(vault) + vault.describe()
    assert SECRET not in repr(vault)
