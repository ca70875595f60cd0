"""Which URLs and addresses are refused. Nothing here resolves or dials anything."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import httpcore2
import pytest
from httpcore2 import AsyncNetworkBackend, AsyncNetworkStream

from app.outbound.address import MAX_URL, Target, WebhookRefused, check_address, check_url, is_allowed
from app.outbound.dial import GuardedBackend, is_own, resolve

pytestmark = pytest.mark.anyio

GOOD = [
    ("https://example.org/hook", Target("https", "example.org", 443, "/hook")),
    ("https://example.org", Target("https", "example.org", 443, "/")),
    ("https://example.org?a=1", Target("https", "example.org", 443, "/?a=1")),
    ("HTTPS://Example.ORG:443/Hook?Key=%2F&x[]=1", Target("https", "example.org", 443, "/Hook?Key=%2F&x[]=1")),
    ("https://example.org:8443/", Target("https", "example.org", 8443, "/")),
    ("https://a-b.c1.example.org/x@y:z", Target("https", "a-b.c1.example.org", 443, "/x@y:z")),
    ("https://bücher.example.org/", Target("https", "xn--bcher-kva.example.org", 443, "/")),
    ("https://xn--bcher-kva.example.org/", Target("https", "xn--bcher-kva.example.org", 443, "/")),
    ("https://93.184.216.34/", Target("https", "93.184.216.34", 443, "/")),
    ("https://[2606:2800:220:1:248:1893:25c8:1946]/", Target("https", "2606:2800:220:1:248:1893:25c8:1946", 443, "/")),
]

BAD_URLS = [
    "",
    "example.org/hook",
    "//example.org/hook",
    "https:/example.org",
    "https:example.org",
    "http://example.org/",
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://example.org/",
    "javascript:alert(1)",
    "https://",
    "https:///hook",
    "https://:443/",
    "https://user@example.org/",
    "https://user:pass@example.org/",
    "https://example.org@127.0.0.1/",
    "https://example.org:80@127.0.0.1/",
    "https://example.org:/",
    "https://example.org:0/",
    "https://example.org:080/",
    "https://example.org:22/",
    "https://example.org:6379/",
    "https://example.org:65536/",
    "https://example.org:99999999999/",
    "https://example.org:4 43/",
    "https://example.org/#fragment",
    "https://example.org#@127.0.0.1/",
    "https://example.org\\@127.0.0.1/",
    "https://example.org\\.evil.example/",
    "https:\\\\example.org/",
    "https://exa mple.org/",
    " https://example.org/",
    "https://example.org/ ",
    "https://example.org/a b",
    "https://example.org/a\r\nHost: internal",
    "https://example.org/\x00",
    "https://example.org/%zz",
    "https://example.org/ü",
    "https://exa%6dple.org/",
    "https://example.org%00.evil.example/",
    "https://example..org/",
    "https://.example.org/",
    "https://example.org./",
    "https://-example.org/",
    "https://example-.org/",
    "https://exa_mple.org/",
    "https://" + "a" * 64 + ".example.org/",
    "https://" + "a." * 130 + "org/",
    "https://example.org/" + "a" * MAX_URL,
    "https://localhost/",
    "https://redis/",
    "https://metadata.google.internal/",
    "https://printer.local/",
    "https://app.localhost/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.0.01/",
    "https://0/",
    "https://1.2.3.4.5/",
    "https://example.0x1/",
    "https://256.256.256.256/",
    "https://１２７.0.0.1/",  # noqa: RUF001
    "https://①②⑦.⓪.⓪.①/",
    "https://127。0。0。1/",
    "https://ⓔxample.org/",
    "https://xn--a/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[::1/",
    "https://::1/",
    "https://[v1.fe80]/",
    "https://[127.0.0.1]/",
    "https://127.0.0.1/",
    "https://169.254.169.254/latest/meta-data/",
]

DENIED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2",
    "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "::7f00:1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff::1", "2001:db8::1", "2002::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "3fff::1", "5f00::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
    "ff0e::1", "fe80::1%eth0", "4000::1",
]  # fmt: skip

PUBLIC = [
    "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1",
    "168.63.129.17", "198.17.0.1", "223.255.255.255", "2001:4860:4860::8888", "2606:4700::1111", "2a00::1",
]  # fmt: skip


@pytest.mark.parametrize(("url", "target"), GOOD)
def test_a_good_url_is_taken_apart(url: str, target: Target) -> None:
    assert check_url(url, allow_ports=(8443,)) == target


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused_in_a_sentence_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(WebhookRefused) as refused:
        check_url(url)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert len(sentence) < 120
    for canary in ("user@", "user:", "evil", "169.254", "meta-data", "internal"):
        assert canary not in sentence


@pytest.mark.parametrize("text", DENIED)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    with pytest.raises(WebhookRefused):
        check_address(text)
    if "%" not in text:
        literal = f"[{text}]" if ":" in text else text
        with pytest.raises(WebhookRefused):
            check_url(f"https://{literal}/")


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_allowed(text: str) -> None:
    assert str(check_address(text)) == text


def test_what_the_operator_opens_is_open_and_no_more() -> None:
    networks = (ip_network("10.1.0.0/16"),)
    assert is_allowed(ip_address("10.1.2.3"), networks)
    assert not is_allowed(ip_address("10.2.0.1"), networks)
    assert not is_allowed(ip_address("::ffff:10.1.2.3"), networks)
    assert check_url("https://hooks/x", allow_cidrs=networks).host == "hooks"
    assert check_url("http://example.org/", allow_http=True).authority == "example.org"
    assert check_url("http://[2a00::1]:8080/", allow_http=True, allow_ports=(8080,)).authority == "[2a00::1]:8080"
    with pytest.raises(WebhookRefused):
        check_url("http://example.org/", allow_ports=(80,))


class NeverDials(AsyncNetworkBackend):
    """Notes what it should have dialled."""

    def __init__(self, *, dead: tuple[str, ...] = ()) -> None:
        self.dialled: list[str] = []
        self.dead = dead

    async def connect_tcp(self, host: str, port: int, *args: object, **options: object) -> AsyncNetworkStream:
        self.dialled.append(host)
        if host in self.dead:
            raise httpcore2.ConnectError("dead")
        return AsyncNetworkStream()


class Resolver:
    """Answers from a list of answers, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_rebinding_dials_what_was_judged() -> None:
    """The name's owner changes the answer between the judgement and the connection: there is no second question."""
    rebinds, inner = Resolver(["93.184.216.34"], ["127.0.0.1"]), NeverDials()
    backend = GuardedBackend(resolver=rebinds, inner=inner, own=lambda address: False)
    await backend.connect_tcp("hook.example.org", 443)
    assert (rebinds.asked, inner.dialled) == (1, ["93.184.216.34"])
    with pytest.raises(WebhookRefused):
        await backend.connect_tcp("hook.example.org", 443)
    assert inner.dialled == ["93.184.216.34"]


@pytest.mark.parametrize("text", DENIED)
async def test_one_denied_answer_denies_the_name(text: str) -> None:
    inner = NeverDials()
    backend = GuardedBackend(resolver=Resolver(["93.184.216.34", text]), inner=inner, own=lambda address: False)
    with pytest.raises(WebhookRefused) as refused:
        await backend.connect_tcp("hook.example.org", 443)
    assert inner.dialled == []
    assert text not in str(refused.value)


async def test_a_dead_first_address_leaves_the_second() -> None:
    inner = NeverDials(dead=("2a00::1",))
    resolver = Resolver(["2a00::1", "2a00::1", "93.184.216.34"])
    await GuardedBackend(resolver=resolver, inner=inner, own=lambda address: False).connect_tcp("example.org", 443)
    assert inner.dialled == ["2a00::1", "93.184.216.34"]


async def test_our_own_public_address_is_refused() -> None:
    inner = NeverDials()
    backend = GuardedBackend(
        resolver=Resolver(["93.184.216.34"]), inner=inner, own=lambda address: str(address) == "93.184.216.34"
    )
    with pytest.raises(WebhookRefused, match="this service"):
        await backend.connect_tcp("example.org", 443)
    assert inner.dialled == []


def test_the_machine_knows_its_own_addresses() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.1"))


async def test_an_unknown_name_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(httpcore2.ConnectError):
        await GuardedBackend(inner=NeverDials()).connect_tcp("example.org", 443)


async def test_resolving_a_literal_needs_no_server() -> None:
    assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]


async def test_unix_sockets_are_refused() -> None:
    with pytest.raises(WebhookRefused):
        await GuardedBackend(inner=NeverDials()).connect_unix_socket("/run/redis.sock")
