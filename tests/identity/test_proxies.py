"""`ClientAddress`: the trusted hop, counted from the right."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audit_middleware.errors import ConfigError
from audit_middleware.identity.proxies import ClientAddress
from audit_middleware.schema import ForwardedPart

PROXIES = ["10.0.0.0/24", "2001:db8:ffff::/48"]
Client = tuple[str, int | None] | None


def of(
    address: ClientAddress, client: Client, *lines: str, header: str = "x-forwarded-for"
) -> tuple[str | None, list[str]]:
    scope = {
        "client": client,
        "headers": [(b"host", b"h"), *((header.encode(), line.encode("latin-1")) for line in lines)],
    }
    initiator, rest = address.of(scope)
    part = ForwardedPart(**rest)
    assert part.header == (header if lines else None)
    return initiator, part.untrusted


def test_by_default_no_header_is_believed() -> None:
    address = ClientAddress()
    assert of(address, ("203.0.113.9", 4711)) == ("203.0.113.9", [])
    assert of(address, ("127.0.0.1", 4711), "1.2.3.4, 10.0.0.1") == ("127.0.0.1", ["1.2.3.4", "10.0.0.1"])
    assert of(address, ("203.0.113.9", 4711), "for=1.2.3.4", header="forwarded") == ("203.0.113.9", ["1.2.3.4"])


@pytest.mark.parametrize(
    ("lines", "expected", "rest"),
    [
        (["198.51.100.7"], "198.51.100.7", []),
        (["1.2.3.4, 198.51.100.7"], "198.51.100.7", ["1.2.3.4"]),
        (["1.2.3.4, 198.51.100.7, 10.0.0.2"], "198.51.100.7", ["1.2.3.4"]),
        (["1.2.3.4", "198.51.100.7", "10.0.0.2"], "198.51.100.7", ["1.2.3.4"]),
        (["10.0.0.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7", ["10.0.0.9"]),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3", []),
        (["198.51.100.7:8080"], "198.51.100.7", []),
        (["1.1.1.1, [2001:db8::1]:443"], "2001:db8::1", ["1.1.1.1"]),
        (["2001:DB8:0::1"], "2001:db8::1", []),
        (["::ffff:198.51.100.7"], "198.51.100.7", []),
        (["fe80::1%eth0\x00"], "fe80::1", []),
        (["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7", []),
        (["1.1.1.1,2001:db8:ffff::7"], "1.1.1.1", []),
        (["1.2.3.4, unknown"], None, ["1.2.3.4", "unknown"]),
        (["1.2.3.4, _hidden, 10.0.0.2"], None, ["1.2.3.4", "_hidden"]),
        (["1.2.3.4, 198.51.100.007"], None, ["1.2.3.4", "198.51.100.007"]),
        (["1.2.3.4, 3405803783"], None, ["1.2.3.4", "3405803783"]),
        ([""], "10.0.0.1", []),
        ([" , ,"], "10.0.0.1", []),
        ([", 198.51.100.7,"], "198.51.100.7", []),
        (["1.2.3.4, " + "9" * 100], None, ["1.2.3.4", "9" * 100]),
    ],
)
def test_behind_a_trusted_proxy_the_right_end_counts(lines: list[str], expected: str | None, rest: list[str]) -> None:
    assert of(ClientAddress(PROXIES), ("10.0.0.1", 5000), *lines) == (expected, rest)


@pytest.mark.parametrize(
    ("line", "expected", "rest"),
    [
        ("for=198.51.100.7", "198.51.100.7", []),
        ("For=198.51.100.7;proto=https;by=10.0.0.1", "198.51.100.7", []),
        ("proto=https ; for = 198.51.100.7", "198.51.100.7", []),
        ('for="198.51.100.7:4711"', "198.51.100.7", []),
        ('for=1.1.1.1, for="[2001:db8::1]:4711"', "2001:db8::1", ["1.1.1.1"]),
        ('for="[2001:db8::1]", for=10.0.0.3', "2001:db8::1", []),
        ("for=1.1.1.1, for=_SEVKISEK", None, ["1.1.1.1", "_SEVKISEK"]),
        ("for=1.1.1.1, for=unknown", None, ["1.1.1.1", "unknown"]),
        ("for=1.1.1.1, proto=https", None, ["1.1.1.1", "proto=https"]),
        ("for=1.1.1.1;for=2.2.2.2", None, ["for=1.1.1.1;for=2.2.2.2"]),
        # An open quote of the client must not swallow what our proxy appended.
        ('for="1.1.1.1, for=198.51.100.7', "198.51.100.7", ['for="1.1.1.1']),
        ('for=", for="[2001:db8::1]:4711"', "2001:db8::1", ['for="']),
        ('for="a\\", for=198.51.100.7', "198.51.100.7", ['for="a\\"']),
        ('for="a, b", for=198.51.100.7', "198.51.100.7", ["a, b"]),
        ('by="x;for=2.2.2.2";for=198.51.100.7', "198.51.100.7", []),
        ('by="x;for=2.2.2.2;y";for=198.51.100.7', None, ['by="x;for=2.2.2.2;y";for=198.51.100.7']),
        ('host="a, for=9.9.9.9", for=198.51.100.7', "198.51.100.7", ['host="a, for=9.9.9.9"']),
    ],
)
def test_forwarded_is_read_the_same_way(line: str, expected: str | None, rest: list[str]) -> None:
    address = ClientAddress(PROXIES, header="forwarded")
    assert of(address, ("10.0.0.1", 5000), line, header="forwarded") == (expected, rest)


def test_the_header_not_configured_is_never_believed() -> None:
    both: dict[str, Any] = {
        "client": ("10.0.0.1", 5000),
        "headers": [(b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2")],
    }
    assert ClientAddress(PROXIES).of(both) == ("2.2.2.2", {"untrusted": [], "header": "x-forwarded-for"})
    chosen = ClientAddress(PROXIES, header="forwarded")
    assert chosen.of(both) == ("1.1.1.1", {"untrusted": [], "header": "forwarded"})
    assert of(chosen, ("10.0.0.1", 5000), "2.2.2.2") == ("10.0.0.1", ["2.2.2.2"])


@pytest.mark.parametrize("client", [None, ("/run/app.sock", None), ("", 0), ("testclient", 50000)])
def test_a_peer_without_an_address_has_none(client: Client) -> None:
    assert of(ClientAddress(PROXIES), client, "1.2.3.4") == (None, ["1.2.3.4"])


def test_a_unix_socket_can_be_trusted_by_name() -> None:
    address = ClientAddress(["unix", "10.0.0.0/24"])
    assert of(address, None, "1.1.1.1, 198.51.100.7, 10.0.0.2") == ("198.51.100.7", ["1.1.1.1"])
    assert of(address, ("203.0.113.9", 1), "1.1.1.1") == ("203.0.113.9", ["1.1.1.1"])


@pytest.mark.parametrize(
    ("depth", "line", "expected", "rest"),
    [
        (1, "1.1.1.1, 2.2.2.2", "2.2.2.2", ["1.1.1.1"]),
        (2, "0.0.0.1, 1.1.1.1, 2.2.2.2", "1.1.1.1", ["0.0.0.1"]),
        (2, "1.1.1.1, 2.2.2.2", "1.1.1.1", []),
        (3, "1.1.1.1, 2.2.2.2", "1.1.1.1", []),
        (2, "0.0.0.1, unknown, 2.2.2.2", None, ["0.0.0.1", "unknown"]),
    ],
)
def test_depth_counts_proxies(depth: int, line: str, expected: str | None, rest: list[str]) -> None:
    assert of(ClientAddress(depth=depth), ("10.0.0.1", 5000), line) == (expected, rest)
    assert of(ClientAddress(depth=depth), ("10.0.0.1", 5000)) == ("10.0.0.1", [])


def test_an_address_the_server_has_already_resolved_is_final() -> None:
    """uvicorn --proxy-headers puts the address it found into the scope, with port 0."""
    assert of(ClientAddress(PROXIES), ("10.0.0.77", 0), "9.9.9.9, 10.0.0.77") == ("10.0.0.77", ["9.9.9.9", "10.0.0.77"])


def test_what_uvicorn_rewrites_is_recognised() -> None:
    import asyncio

    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    seen: list[tuple[str | None, dict[str, Any]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(ClientAddress(["198.51.100.0/24", "127.0.0.1"]).of(scope))

    scope = {"type": "http", "client": ("127.0.0.1", 5), "headers": [(b"x-forwarded-for", b"9.9.9.9, 198.51.100.7")]}
    asyncio.run(ProxyHeadersMiddleware(app, "127.0.0.1")(scope, None, None))  # type: ignore[arg-type]  # not called
    # 198.51.100.7 is one of ours, but it is the client here: what it claims about others is not believed.
    assert seen == [("198.51.100.7", {"untrusted": ["9.9.9.9", "198.51.100.7"], "header": "x-forwarded-for"})]


def test_the_rest_is_bounded_and_its_right_end_kept() -> None:
    line = ", ".join(["x" * 300] * 40 + ["1.1.1.1", "198.51.100.7"])
    initiator, rest = of(ClientAddress(PROXIES), ("10.0.0.1", 5000), line)
    assert initiator == "198.51.100.7"
    assert len(rest) == 16
    assert rest[-1] == "1.1.1.1"
    assert all(len(entry.encode()) <= 256 for entry in rest)


def test_an_overlong_header_loses_whole_entries_only() -> None:
    hops = ["10.0.0.2"] * 3000
    initiator, rest = of(ClientAddress(PROXIES), ("10.0.0.1", 5000), ",".join(["210.0.0.2", *hops]))
    assert (initiator, rest) == ("10.0.0.2", [])


NETWORKS = [ip_network(text) for text in PROXIES]
ADDRESSES = st.ip_addresses().map(str) | st.integers(1, 254).map(lambda n: f"10.0.0.{n}")
ENTRIES = ADDRESSES | st.text("0123456789.:[]%_ \"';=abcfor\\", max_size=20)


@given(st.lists(ENTRIES, max_size=6), ADDRESSES, st.lists(st.integers(1, 254).map(lambda n: f"10.0.0.{n}"), max_size=3))
def test_nothing_a_client_writes_moves_the_address_its_proxy_saw(
    claimed: list[str], client: str, hops: list[str]
) -> None:
    """The client sends any header; each proxy appends the address it saw. The last one not ours is the answer."""
    address = getattr(ip_address(client), "ipv4_mapped", None) or ip_address(client)
    assume(not any(address in network for network in NETWORKS))
    expected = str(address)
    seen = [client, *hops]
    assert of(ClientAddress(PROXIES), ("10.0.0.1", 5000), ", ".join([*claimed, *seen]))[0] == expected
    nodes = [f'for="[{one}]:1"' if ":" in one else f"for={one}" for one in seen]
    forwarded = ClientAddress(PROXIES, header="forwarded")
    assert of(forwarded, ("10.0.0.1", 5000), ", ".join([*claimed, *nodes]), header="forwarded")[0] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trusted": "10.0.0.1"}, "must be a list"),
        ({"trusted": ["*"]}, r"'\*' is no address"),
        ({"trusted": ["10.0.0.1/8"]}, "has host bits set"),
        ({"trusted": ["proxy.example"]}, "is no address and no network"),
        ({"trusted": ["0.0.0.0/0"]}, "trusts everybody"),
        ({"trusted": ["::/0"]}, "trusts everybody"),
        ({"depth": 0}, "at least 1"),
        ({"trusted": ["10.0.0.1"], "depth": 1}, "excludes a list"),
        ({"header": "x-real-ip"}, "must be x-forwarded-for or forwarded"),
    ],
)
def test_mistakes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClientAddress(**arguments)
