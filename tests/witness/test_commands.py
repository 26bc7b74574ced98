"""The command `cosign`, and proofs that show who witnessed them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from audit_middleware.evidence.anchors import COSIGNED, cosigned_notes, newest_cosigned
from audit_middleware.ledger.note import Verifier
from audit_middleware.ledger.submission import SIZE_TYPE
from tests.publish.support import numbered
from tests.stores.samples import ORIGIN, new_journal
from tests.witness.support import (
    ROOT,
    V1,
    V2,
    V3,
    Script,
    always,
    ask,
    grow,
    run,
    trust_of,
    trust_text,
)

# --- the command --------------------------------------------------------------------------------------------------


def test_the_command(log: Path, urls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "trust"
    file.write_text(trust_text(("w1", V1, urls[0]), ("w2", V2, urls[1])))
    code, said, _ = run("cosign", log, "--trust", file)
    assert (code, f"{ORIGIN}: size 5 cosigned by w1, w2" in said) == (0, True)
    answer = json.loads(run("cosign", log, "--trust", file, "--json")[1])
    assert (answer["size"], answer["reached"], answer["witnesses"]) == (5, True, ["w1", "w2"])
    file.write_text(trust_text(("w1", V1, urls[0]), ("w2", V2, "http://127.0.0.1:1")))
    code, said, problem = run("cosign", log, "--trust", file, "--patience", "2")
    assert (code, "the quorum is not reached" in said, "witness w2:" in problem) == (1, True, True)
    with Script(always(409, {"Content-Type": SIZE_TYPE}, b"77\n")).running() as ahead:
        file.write_text(trust_text(("w1", V1, ahead)))
        code, _, problem = run("cosign", log, "--trust", file)
    assert (code, "rolled back" in problem) == (1, True)
    file.write_text("quorum none\n")
    assert run("cosign", log, "--trust", file)[0] == 3


def test_following_until_a_signal(log: Path, urls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "trust"
    file.write_text(trust_text(("w1", V1, urls[0])))
    arguments = ["cosign", str(log), "--trust", str(file), "--follow", "--interval", "0.05", "--json"]
    command = [sys.executable, "-m", "audit_middleware", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["size"] == 5
        grow(log, 5, 6)
        assert json.loads(process.stdout.readline())["size"] == 6
    finally:
        os.kill(process.pid, signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, b"", b"")
    assert len(list(cosigned_notes(log))) == 2


# --- proofs under a cosigned checkpoint ---------------------------------------------------------------------------


def test_proofs_that_show_their_witnesses(log: Path, urls: list[str], tmp_path: Path) -> None:
    file, proof, kept = tmp_path / "trust", tmp_path / "one.tlog-proof", tmp_path / "kept"
    file.write_text(trust_text(("w1", V1, urls[0]), ("w2", V2, urls[1])))
    assert run("prove", log, 1, "--out", proof)[0] == 0
    code, _, problem = run("verify-proof", proof, "--trust", file)
    assert (code, "quorum 'all' is not reached, cosigned by nobody" in problem) == (1, True)
    for command in (("prove", log, 1, "--cosigned"), ("checkpoint", log, "--cosigned")):
        assert run(*command)[0] == 1
    kept.write_text(run("checkpoint", log)[1])
    run("cosign", log, "--trust", file)
    grow(log, 5, 7)
    assert run("prove", log, 1, "--out", proof)[0] == 0
    code, said, _ = run("verify-proof", proof, "--trust", file)
    assert (code, "witnessed by 2: w1, w2" in said, "size 5" in said) == (0, True, True)
    answer = json.loads(run("verify-proof", proof, "--trust", file, "--json")[1])
    assert (answer["holds"], answer["witnesses"], answer["size"]) == (True, ["w1", "w2"], 5)
    # An entry that no cosigned checkpoint covers, and one for which none is wanted.
    assert json.loads(run("prove", log, 6, "--json")[1])["size"] == 7
    assert json.loads(run("prove", log, 1, "--no-cosigned", "--json")[1])["size"] == 7
    assert run("prove", log, 6, "--cosigned")[0] == 1
    # Consistency: the newest cosigned one is what the quorum is demanded of.
    code, _, said = run("consistency", log, kept, "--trust", file)
    assert (code, "witnessed by 2: w1, w2" in said) == (0, True)
    answer = json.loads(run("consistency", log, kept, "--trust", file, "--json")[1])
    assert (answer["witnesses"], answer["new"]["size"]) == (["w1", "w2"], 5)
    plain = tmp_path / "plain"
    plain.write_text(run("checkpoint", log)[1])
    assert run("consistency", log, kept, plain, "--trust", file)[0] == 1
    assert run("consistency", log, kept, plain)[0] == 0
    cosigned = run("checkpoint", log, "--cosigned")[1]
    assert cosigned.encode() == newest_cosigned(log)
    # Other trust: no key of this log, nobody asked for, nothing given.
    file.write_text(trust_text(("w1", V1, None), vkey=_other_vkey()))
    assert run("verify-proof", proof, "--trust", file)[0] == 1
    file.write_text(trust_text(quorum="none"))
    assert "witnessed by 0" in run("verify-proof", proof, "--trust", file)[1]
    assert run("verify-proof", proof)[0] == 2


def _other_vkey() -> str:
    return Verifier("other.example/log", 0x01, V3.public_key).vkey


def test_a_cosigned_checkpoint_of_another_history_gives_no_proof(log: Path, urls: list[str], tmp_path: Path) -> None:
    ask(log, trust_of(("w1", V1, urls[0])))
    forged = tmp_path / "forged"
    new_journal(forged, numbered(0, 3), numbered(50, 52), numbered(5, 9))
    shutil.copy(log / COSIGNED, forged / COSIGNED)
    code, _, problem = run("prove", forged, 1)
    assert (code, "another history" in problem) == (1, True)
    assert run("prove", forged, 1, "--no-cosigned")[0] == 0
