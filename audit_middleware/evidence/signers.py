"""The signers of a log, from the text of its key file; and that they are the log's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import ConfigError, KeyFileError
from ..ledger.note import format_vkey, parse_signer_key
from ..signing import Ed25519Signer

__all__ = ["check_signers", "signers_of", "vkey_of"]


def signers_of(text: str) -> tuple[Ed25519Signer, ...]:
    """Returns the signers of a key file's or variable's text: one ``PRIVATE+KEY`` a line, all of one origin.

    Raises:
        KeyFileError: There is none, one is there twice, or they are of different origins.
        NoteError: A line is no signer key. Nothing of it is repeated.
    """
    parsed = [parse_signer_key(line) for line in text.split()]
    if not parsed:
        raise KeyFileError("signer key: there is none")
    if len({name for name, _ in parsed}) > 1:
        raise KeyFileError(f"signer keys of different logs: {', '.join(sorted({name for name, _ in parsed}))}")
    if len(set(parsed)) < len(parsed):
        raise KeyFileError(f"signer key of {parsed[0][0]}: the same key is there twice")
    return tuple(Ed25519Signer(name, seed) for name, seed in parsed)


def vkey_of(signer: Ed25519Signer) -> str:
    """Returns a signer's verifier key."""
    return format_vkey(signer.name, signer.public_key)


def check_signers(signers: Iterable[Ed25519Signer], place: object, origin: str, vkeys: Collection[str]) -> None:
    """Refuses keys whose signatures nobody who trusts the log's listed keys would accept.

    Of the same origin they may be, and another log's all the same: made by a second `init`, or on a second host.

    Args:
        signers: What would sign.
        place: What the log is called in messages.
        origin: The log's name.
        vkeys: The verifier keys that the log lists.

    Raises:
        ConfigError: One is not the log's.
    """
    for signer in signers:
        if signer.name != origin:
            raise ConfigError(f"the signing key is for {signer.name!r}, but the log {place} is {origin!r}")
        if vkey_of(signer) not in vkeys:
            raise ConfigError(
                f"the signing key is none of the log {place}: it is {vkey_of(signer)}, and the log lists "
                f"{', '.join(vkeys)}. Take the key that signs this log; audit-middleware keys rotate adds another one"
            )
