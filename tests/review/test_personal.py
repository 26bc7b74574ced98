"""The periodic review of sealed records: one sealed person is one user, and no ciphertext is a name or a role."""

from __future__ import annotations

from audit_middleware.ledger.canonical import encode
from audit_middleware.model import Frame, Head
from audit_middleware.persons import Person, Personal, Treatment, pseudonym_of
from audit_middleware.privacy.sealing import Sealing
from audit_middleware.review.activity import Activity
from tests.kit import MemoryKeys
from tests.stores.samples import ORIGIN, record

PERSONAL: Personal = {"user_id": Treatment("seal"), "subject.roles": Treatment("seal")}


def activity(personal: Personal, keys: MemoryKeys) -> Activity:
    sealing = Sealing(keys, ORIGIN)
    users = ["ann", "bob", "ann", "ann"]
    rows = [record(number, user_id=user, severity="high") for number, user in enumerate(users)]
    found = Activity()
    found.read([Frame(0, tuple(encode(sealing.apply(row, personal)) for row in rows), Head(len(rows)))])
    return found


def test_one_sealed_person_counts_as_one() -> None:
    keys = MemoryKeys(ORIGIN)
    found = activity(PERSONAL, keys)
    ann, bob = (pseudonym_of(keys.rows[Person("user", name)].token) for name in ("ann", "bob"))
    assert dict(found.users.top(10)) == {ann: 3, bob: 1}
    assert {user for (user, _, _), _ in found.severe.top(10)} == {ann, bob}
    assert dict(found.roles.top(10)) == {"(sealed)": 4}


def test_in_clear_they_have_their_names() -> None:
    assert dict(activity({}, MemoryKeys(ORIGIN)).users.top(10)) == {"ann": 3, "bob": 1}
