"""``subject init`` and ``subject rotate``, their records and settings, for both kinds of log."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from audit_middleware.errors import ConfigError, MasterKeyError, SubjectKeysError
from audit_middleware.evidence.masters import rotate
from audit_middleware.ledger.canonical import decode
from audit_middleware.privacy.keys import open_keys
from audit_middleware.privacy.masters import open_master
from audit_middleware.settings import Settings, load_settings
from audit_middleware.stores.opening import open_log, place_of
from tests.kit import ORIGIN, Log, Run, make_log
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD
from tests.privacy.keying import user


def test_a_store_is_made_once(log: Log, run: Run) -> None:
    code, out, err = run("subject", "init", log.path, "--json")
    assert (code, err) == (0, "")
    subjects, master = f"{log.path}.subjects", f"file:{log.path}.master"
    assert json.loads(out) == {"subject_keys": subjects, "master_key": master, "made_master_key": True}
    keys = open_keys(subjects, ORIGIN, open_master(master, ORIGIN))
    keys.of(user(1))
    keys.close()
    code, _, err = run("subject", "init", log.path)
    assert code == 3
    assert "there is a store of persons' keys already" in err


def test_a_master_key_that_is_there_is_used(
    log: Log, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUDIT_SUBJECT_KEYS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("BILLING_MASTER", "A" * 43 + "=")
    code, out, err = run("subject", "init", log.path, "--master-key", "env:BILLING_MASTER")
    assert (code, err) == (0, "")
    assert f"persons' keys  {tmp_path / 'elsewhere'}" in out
    assert "back it up" in out
    assert not Path(f"{log.path}.master").exists()
    open_keys(tmp_path / "elsewhere", ORIGIN, open_master("env:BILLING_MASTER", ORIGIN)).close()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["subject", "init", "{}/none"], 3, "audit-middleware init"),
        (["subject", "init", "{}/audit", "--master-key", "vault:x"], 3, "expected file:PATH, env:NAME or awskms:KEY"),
        (["subject", "init", "{}/audit", "--subject-keys", "mysql://h/d"], 3, "not in mysql://"),
        (["subject", "rotate", "{}/audit"], 2, "nothing to do: give --new-master, --deep, or both"),
        (["subject", "rotate", "{}/audit", "--deep"], 3, "it is made by: audit-middleware subject init LOG"),
    ],
)
def test_what_cannot_be_done(log: Log, run: Run, arguments: list[str], code: int, message: str) -> None:
    got, _, err = run(*[one.format(log.path.parent) for one in arguments])
    assert (got, message in err) == (code, True), err
    assert not Path(f"{log.path}.subjects").exists()


def test_a_rotation_is_a_record(log: Log, run: Run, tmp_path: Path) -> None:
    run("subject", "init", log.path)
    old, new = f"file:{log.path}.master", f"file:{tmp_path / 'keys' / 'second'}"
    place = f"{log.path}.subjects"
    keys = open_keys(place, ORIGIN, open_master(old, ORIGIN))
    key = keys.of(user(1))
    keys.commit()
    code, out, err = run("subject", "rotate", log.path, "--new-master", new)
    assert (code, err) == (0, "")
    assert f"Set master_key to {new}" in out
    (record,) = log.controls("audit.master_key_rotated")
    by = record["extra"].pop("by")
    assert by
    assert record["extra"] == {"old_master": old, "new_master": new, "renewed": False, "size": 0}
    assert record["severity"] == "high"
    with pytest.raises(MasterKeyError, match="is another key"):
        open_keys(place, ORIGIN, open_master(old, ORIGIN))
    code, out, err = run("subject", "rotate", log.path, "--deep", "--master-key", new, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"master_key": new, "renewed": 1, "size": 2}
    with pytest.raises(SubjectKeysError, match="restart it with the new setting"):
        keys.find(user(1))
    keys.close()
    fresh = open_keys(place, ORIGIN, open_master(new, ORIGIN))
    assert fresh.find(user(1)) == key
    fresh.close()


def test_a_rotation_that_was_done_is_only_said(log: Log, run: Run, tmp_path: Path) -> None:
    """What a command finds that died after its last step."""
    run("subject", "init", log.path)
    new = f"file:{tmp_path / 'second'}"
    assert run("subject", "rotate", log.path, "--new-master", new)[0] == 0
    code, out, _ = run("subject", "rotate", log.path, "--new-master", new)
    assert code == 0
    assert "it was in force already" in out
    assert len(log.controls("audit.master_key_rotated")) == 1
    code, _, err = run("subject", "rotate", log.path, "--new-master", new, "--master-key", new)
    assert code == 3
    assert "is the one in force already" in err
    assert len(log.controls("audit.master_key_rotated")) == 1


def test_a_rotation_needs_the_logs_own_key(log: Log, run: Run, tmp_path: Path) -> None:
    run("subject", "init", log.path)
    (tmp_path / "other").mkdir()
    run("keys", "new", "--name", "audit.example.com/other", "--out", tmp_path / "other.key")
    code, _, err = run(
        "subject", "rotate", log.path, "--new-master", f"file:{tmp_path / 'b'}", "--key", tmp_path / "other.key"
    )
    assert code == 3
    assert "is for 'audit.example.com/other'" in err
    open_keys(f"{log.path}.subjects", ORIGIN, open_master(f"file:{log.path}.master", ORIGIN)).close()


def test_a_name_that_a_record_would_not_hold_is_refused_before_anything_is_done(log: Log, run: Run) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        rotate(log.path, Path(f"{log.path}.key"), f"{log.path}.subjects", f"file:{log.path}.master", None, "me")


@pytest.mark.parametrize("arn", ["arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"])
def test_the_name_of_a_kms_key_stands_in_a_record_as_it_is(log: Log, arn: str) -> None:
    """Names are looked over for secrets, as everything in a record is."""
    from audit_middleware.evidence.changes import append_control
    from audit_middleware.evidence.signers import signers_of
    from audit_middleware.signing import read_key_file

    store = open_log(log.path, writable=True)
    signers = signers_of(read_key_file(Path(f"{log.path}.key")))
    extra = {"old_master": f"awskms:{arn}", "new_master": "awskms:alias/audit"}
    append_control(store, signers, "audit.master_key_rotated", extra, lambda: 10**18)
    store.close()
    assert log.controls("audit.master_key_rotated")[0]["extra"] == extra


def test_a_log_and_its_keys_in_a_database(
    database: Database, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("AUDIT_STATE", str(state))
    assert run("init", database.url, "--origin", ORIGIN)[0] == 0
    code, out, err = run("subject", "init", database.url, "--subject-keys", database.url)
    assert (code, err) == (0, "")
    assert PASSWORD not in out
    assert (state / "master").exists()
    code, out, err = run(
        "subject",
        "rotate",
        database.url,
        "--subject-keys",
        database.url,
        "--new-master",
        f"file:{tmp_path / 'b'}",
        "--deep",
    )
    assert (code, err) == (0, "")
    assert "the keys of 0 persons" in out
    store = open_log(place_of(database.url))
    (record,) = [decode(entry) for frame in store.frames() for entry in frame.entries]
    store.close()
    assert record["action"] == "audit.master_key_rotated"
    code, out, err = run("subject", "init", database.url)
    assert code == 0, err
    assert "for services on several hosts give --subject-keys postgresql://" in re.sub(r"\s+", " ", out)
    assert (state / "subjects" / "keys.sqlite").exists()


# --- settings --------------------------------------------------------------------------------------------------------


def settings(**options: object) -> Settings:
    return load_settings({"policy": "p.yaml", "log": "var/audit", "service": "s", **options}, {})


def test_where_settings_look(tmp_path: Path) -> None:
    plain = settings()
    assert (plain.subject_keys_place, plain.master_key_url) == ("var/audit.subjects", "file:var/audit.master")
    base = {"log": "postgresql://h/d"}
    there = settings(**base, state=tmp_path)
    assert (there.subject_keys_place, there.master_key_url) == (f"{tmp_path}/subjects", f"file:{tmp_path}/master")
    with pytest.raises(ConfigError, match="setting state is missing"):
        _ = settings(**base).subject_keys_place
    named = settings(**base, subject_keys="/k", master_key="env:M")
    assert (named.subject_keys_place, named.master_key_url) == ("/k", "env:M")


def test_settings_show_no_secret() -> None:
    shown = settings(subject_keys="postgresql://u:hidden@h/d", master_key="awskms:alias/audit").shown()
    assert (shown["subject_keys"], shown["master_key"]) == ("set", "awskms:alias/audit")
    assert settings(subject_keys="/var/keys").shown()["subject_keys"] == "/var/keys"
    assert "hidden" not in repr(settings(subject_keys="postgresql://u:hidden@h/d"))
    with pytest.raises(ConfigError) as refused:
        settings(master_key="c2VjcmV0IGtleSBwdXQgaGVyZSBieSBtaXN0YWtlIQ==")
    assert "setting master_key" in str(refused.value)
    assert "c2VjcmV0" not in str(refused.value)


def test_the_defaults_of_commands_are_those_of_settings(tmp_path: Path, run: Run) -> None:
    log = make_log(tmp_path)
    run("subject", "init", log.path)
    mine = settings(log=str(log.path))
    open_keys(mine.subject_keys_place, ORIGIN, open_master(mine.master_key_url, ORIGIN)).close()
