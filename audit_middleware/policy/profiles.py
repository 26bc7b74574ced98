"""Profiles of personal data: a treatment for every field that can be treated, with the reason, by a law."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..persons import Treatment

__all__ = ["GDPR", "PROFILES", "Entry"]


class Entry(NamedTuple):
    """One field of a profile: what is done with it, why, and what of the law says so."""

    treatment: Treatment
    why: str
    article: str


_SEAL, _CLEAR, _COMMIT = Treatment("seal"), Treatment("clear"), Treatment("commit")
_SEAL_OF_RESOURCE = Treatment("seal", "resource")
_SENT = "what a client sends can hold anything"

GDPR: Mapping[str, Entry] = MappingProxyType(
    {
        "user_id": Entry(_SEAL, "names who asked", "4(1), 17(1)"),
        "subject.roles": Entry(_CLEAR, "the policy's roles, without which no decision can be made again", "5(2)"),
        "subject.tenant": Entry(Treatment("token"), "an organisation, and sometimes one person", "4(5)"),
        "subject.session": Entry(_SEAL, "an online identifier", "4(1), recital 30"),
        "subject.properties": Entry(_SEAL, "the identity's claims: names, addresses", "4(1), 25(1)"),
        "source.detail": Entry(_SEAL, "the application's own words about a sign-in: a certificate's name", "4(1)"),
        "initiator_ip": Entry(_SEAL, "an online identifier", "4(1), recital 30"),
        "forwarded.untrusted": Entry(_SEAL, "addresses that proxies or clients claim", "4(1), recital 30"),
        "user_agent": Entry(_SEAL, "tells devices apart", "recital 30"),
        "resource.id": Entry(Treatment("token", "resource"), "may be a person: patient/7", "4(5), 17(1)"),
        "resource.properties": Entry(_SEAL_OF_RESOURCE, "says something about what was acted on", "4(1), 17(1)"),
        "reason": Entry(_SEAL, "free text", "25(1)"),
        "impact.before": Entry(_SEAL_OF_RESOURCE, "the data that was changed", "4(1), 17(1)"),
        "impact.after": Entry(_SEAL_OF_RESOURCE, "the data that was changed", "4(1), 17(1)"),
        "decision.inputs.values": Entry(_SEAL, "attributes of the caller and of what was acted on", "25(1)"),
        "request.path": Entry(_SEAL, "holds identifiers", "25(1)"),
        "request.path_params": Entry(_SEAL, "hold identifiers", "25(1)"),
        "request.query": Entry(_SEAL, _SENT, "25(1)"),
        "request.headers": Entry(_SEAL, "the referer is an address with a query; others are configured", "25(1)"),
        "request.digest": Entry(_COMMIT, "the hash of a short text can be guessed", "4(5), 32(1)(a)"),
        "request.body.content": Entry(_SEAL, _SENT, "25(1)"),
        "request.body.content_type": Entry(_SEAL, "may carry a file's name", "25(1)"),
        "response.error": Entry(_CLEAR, "the name of an exception's type, never its message", "5(1)(c)"),
        "response.body.content": Entry(_SEAL, "what was read", "4(1), 25(1)"),
        "response.body.content_type": Entry(_SEAL, "may carry a file's name", "25(1)"),
        "trace.client_correlation_id": Entry(_SEAL, _SENT, "25(1)"),
        "trace.client_request_id": Entry(_SEAL, _SENT, "25(1)"),
        "extra": Entry(_SEAL, "what the application annotates besides", "25(1)"),
    }
)
"""Regulation (EU) 2016/679: no captured field that may hold personal data is clear."""

PROFILES: Mapping[str, Mapping[str, Entry]] = MappingProxyType({"gdpr": GDPR})
"""Every profile by its name."""
