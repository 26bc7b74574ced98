"""Rollback and fork, noticed because witnesses remember; and what they show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit_middleware.errors import LogDamaged, LogForked
from audit_middleware.evidence.anchors import COSIGNED
from audit_middleware.evidence.witness_client import witness_heads
from audit_middleware.ledger.submission import SIZE_TYPE, origin_hash
from audit_middleware.stores.journal import JournalStore
from tests.publish.support import numbered
from tests.stores.samples import ORIGIN, new_journal
from tests.witness.support import (
    TEXT,
    V1,
    V2,
    V3,
    Answer,
    Script,
    always,
    ask,
    grow,
    trust_of,
)

# --- rollback and fork --------------------------------------------------------------------------------------------


def test_an_older_copy_of_the_log_is_noticed(log: Path, urls: list[str], tmp_path: Path) -> None:
    trust = trust_of(("w1", V1, urls[0]), ("w2", V2, urls[1]))
    shutil.copytree(log, tmp_path / "backup")
    grow(log, 5, 12)
    ask(log, trust)
    kept = (log / COSIGNED).read_bytes()
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "backup", log)
    with pytest.raises(LogDamaged, match=r"w1: it has size 12, but the log .* ends at 5: it was rolled back") as alarm:
        ask(log, trust)
    assert str(alarm.value).count("signed by the log's own key; the log ends at 5") == 2
    # And where what was kept beside the log is newer than the log, nobody need be asked.
    (log / COSIGNED).write_bytes(kept)
    with pytest.raises(LogDamaged, match="the newest cosigned checkpoint has size 12"):
        ask(log, trust_of(("w1", V1, "http://127.0.0.1:1"), ("w2", V2, urls[1])))
    # A copy that went on and has grown past the witnesses is another history.
    (log / COSIGNED).unlink()
    grow(log, 100, 120)
    with pytest.raises(LogForked, match="which this log does not lead to"):
        ask(log, trust)
    assert not (log / COSIGNED).exists()


def test_a_history_of_the_same_commits_with_another_entry(log: Path, urls: list[str], tmp_path: Path) -> None:
    trust = trust_of(("w1", V1, urls[0]))
    ask(log, trust)
    for more in ((), (numbered(5, 9),)):
        path = tmp_path / f"forged-{len(more)}"
        new_journal(path, numbered(0, 3), numbered(50, 52), *more)
        with pytest.raises(LogForked, match="signed by the log's own key, which this log does not lead to"):
            ask(path, trust)
    # Beside the log, the cosigned checkpoint of the same size shows it without a witness.
    shutil.copy(log / COSIGNED, tmp_path / "forged-0" / COSIGNED)
    with pytest.raises(LogForked, match="was cosigned at size 5 with another root"):
        ask(tmp_path / "forged-0", trust_of(("w1", V1, "http://127.0.0.1:1")))


def test_an_alarm_on_a_witnesss_bare_word_says_so(log: Path) -> None:
    for answer, kind, said in [
        (always(409, {"Content-Type": SIZE_TYPE}, b"6\n"), LogDamaged, "it has size 6"),
        (always(409, {"Content-Type": SIZE_TYPE}, b"4\n"), LogForked, "holds size 4, at which this log never signed"),
        (always(422, {}, b""), LogForked, "refused a proof from size 0 that holds"),
    ]:
        with Script(answer).running() as url, pytest.raises(kind, match=said) as alarm:
            ask(log, trust_of(("w1", V1, url)))
        assert "its word alone" in str(alarm.value)
    assert not (log / COSIGNED).exists()


def test_a_refusal_by_a_witness_that_holds_the_same_history_is_a_failure(log: Path) -> None:
    note = JournalStore.open(log, writable=False).head().checkpoint
    script = Script(lambda method, path, _: (200, TEXT, note) if method == "GET" else (422, {}, b""))
    with script.running() as url:
        result = ask(log, trust_of(("w1", V1, url)))
    assert (result.note, "status 422" in str(result.outcomes[0].problem)) == (None, True)


def test_an_alarm_outweighs_a_quorum(log: Path, urls: list[str]) -> None:
    with Script(always(422, {}, b"")).running() as liar, pytest.raises(LogForked):
        ask(log, trust_of(("w1", V1, urls[0]), ("w2", V2, liar), quorum="1"), grace=10.0)
    assert not (log / COSIGNED).exists()


def test_a_log_that_grew_meanwhile_is_no_rollback(log: Path, tmp_path: Path) -> None:
    """Another process submitted what this one has not seen yet."""

    def answer(method: str, path: str, body: bytes) -> Answer:
        if JournalStore.open(log, writable=False).head().size == 5:
            grow(log, 5, 9)
        return 409, {"Content-Type": SIZE_TYPE}, b"9\n"

    with Script(answer).running() as url:
        result = ask(log, trust_of(("w1", V1, url)))
    assert "holds size 9 already" in str(result.outcomes[0].problem)


# --- the read side ------------------------------------------------------------------------------------------------


def test_the_heads_that_witnesses_show(log: Path, urls: list[str], tmp_path: Path) -> None:
    silent = Script(always(404, {}, b""))
    foreign = Script(lambda *_: (200, TEXT, b"x\n1\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 x AAAAAAAA\n"))
    stored = tmp_path / "w1" / origin_hash(ORIGIN)
    unsigned = Script(lambda *_: (200, TEXT, stored.read_bytes().replace(b"\n5\n", b"\n6\n")))
    with silent.running() as none, foreign.running() as other, unsigned.running() as bad:
        trust = trust_of(("w1", V1, urls[0]), ("silent", V2, none), ("other", V3, other), quorum="1")
        ask(log, trust_of(("w1", V1, urls[0])))
        first, second, third = witness_heads(trust, ORIGIN, 20)
        (fourth,) = witness_heads(trust_of(("w1", V1, bad)), ORIGIN, 20)
    root = JournalStore.open(log, writable=False).head()
    assert (first.name, first.size, first.verified, first.cosigned, first.problem) == ("w1", 5, True, True, None)
    assert first.root is not None
    assert root.size == 5
    assert (second.size, second.root, second.verified) == (None, None, False)
    assert "shows no checkpoint of this log" in str(second.problem)
    assert (third.size, third.verified, "shows a checkpoint of 'x'" in str(third.problem)) == (None, False, True)
    assert (fourth.size, fourth.root, fourth.verified, fourth.cosigned) == (6, None, False, False)
    (gone,) = witness_heads(trust_of(("w1", V1, "http://127.0.0.1:1")), ORIGIN, 5)
    assert (gone.size, gone.verified, gone.problem is not None) == (None, False, True)


def test_heads_are_read_where_a_loop_runs(log: Path, urls: list[str]) -> None:
    import asyncio

    async def start() -> int | None:
        return witness_heads(trust_of(("w1", V1, urls[0])), ORIGIN, 20)[0].size

    ask(log, trust_of(("w1", V1, urls[0])))
    assert asyncio.run(start()) == 5
