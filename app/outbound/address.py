"""Which URLs and addresses this service goes to for a caller. The one parser for the check and for the connection.

Judges text and numbers only: it resolves nothing and opens nothing, so the gateway may call it on every submit.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

import idna

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HTTPS_PORT = 443
HTTP_PORT = 80
MAX_URL = 2_048

# IANA's special-purpose registries, and what is no business of a caller although it is routed.
# `ipaddress.is_global` alone says yes to several of these, and its answers change with the Python version.
_DENIED_V4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata 100.100.100.200
    "127.0.0.0/8",
    "168.63.129.16/32",  # Azure's host agent
    "169.254.0.0/16",  # link-local; the metadata address of most clouds
    "172.16.0.0/12",
    "192.0.0.0/24",  # Oracle's metadata 192.0.0.192
    "192.0.2.0/24",
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
# Everything outside global unicast 2000::/3 is refused, which covers loopback, mapped, compatible, NAT64 (both
# prefixes), 100::/64, ULA, link-local, site-local and multicast. Inside it:
_DENIED_V6 = (
    "2001::/23",  # Teredo, ORCHID, benchmarking
    "2001:db8::/32",
    "2002::/16",  # 6to4
    "3fff::/20",
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_DENIED = tuple(ipaddress.ip_network(text) for text in (*_DENIED_V4, *_DENIED_V6))

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_REST = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PRIVATE_NAMES = ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "arpa", "onion")


class WebhookRefused(Exception):
    """A URL or an address that webhooks do not go to. The message is a sentence for the caller, without the URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """A judged URL in the parts a connection needs. `host` is ASCII and lower case, an IPv6 one without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = HTTPS_PORT if self.scheme == "https" else HTTP_PORT
        return host if self.port == usual else f"{host}:{self.port}"


def check_url(
    url: str,
    *,
    allow_http: bool = False,
    allow_ports: Collection[int] = (HTTPS_PORT,),
    allow_cidrs: Collection[Network] = (),
) -> Target:
    """Take a URL apart and judge what can be judged without asking anybody.

    443 is always allowed, 80 with `allow_http`. Names of private networks need `allow_cidrs`, which also opens those
    addresses. Raises WebhookRefused.
    """
    if len(url) > MAX_URL:
        raise WebhookRefused(f"The URL is longer than {MAX_URL} characters.")
    match = _URL.fullmatch(url)
    scheme = match["scheme"].lower() if match else ""
    if not match or scheme not in (("https", "http") if allow_http else ("https",)):
        raise WebhookRefused(
            "The URL must begin with https://." if not allow_http else "The URL must be https or http."
        )
    host, port = _split_authority(match["authority"])
    port = port or (HTTPS_PORT if scheme == "https" else HTTP_PORT)
    if port != HTTPS_PORT and port not in allow_ports and not (allow_http and port == HTTP_PORT):
        raise WebhookRefused(f"Port {port} is not allowed; use {HTTPS_PORT} or one the operator has opened.")
    return Target(scheme, _check_host(host, allow_cidrs), port, _check_rest(match["rest"]))


def check_address(text: str, *, allow_cidrs: Collection[Network] = ()) -> Address:
    """One address that a name resolved to. Raises WebhookRefused, without the address: a caller must not learn it."""
    address = _parse_address(text)
    if address is None or not is_allowed(address, allow_cidrs):
        raise WebhookRefused("The host is or resolves to an address that is not public.")
    return address


def is_allowed(address: Address, allow_cidrs: Collection[Network] = ()) -> bool:
    """Is this a public unicast address, or inside a network that the operator has opened?"""
    if any(address in network for network in allow_cidrs):
        return True
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not any(address in network for network in _DENIED)


def _split_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise WebhookRefused("The URL must not carry a user name or password.")
    match = _AUTHORITY.fullmatch(authority)
    if not match or int(match["port"] or 1) > 65_535:
        raise WebhookRefused("The host or port of the URL is malformed.")
    return match["host"], int(match["port"]) if match["port"] else None


def _check_rest(rest: str) -> str:
    if "#" in rest:
        raise WebhookRefused("The URL must not have a fragment.")
    if not _REST.fullmatch(rest):
        raise WebhookRefused("The path or query holds a character that must be percent-encoded.")
    return rest if rest.startswith("/") else f"/{rest}"


def _check_host(host: str, allow_cidrs: Collection[Network]) -> str:
    if host.startswith("["):
        return str(check_address(host[1:-1], allow_cidrs=allow_cidrs))
    name = _ascii_name(host)
    labels = name.split(".")
    # WHATWG's "ends in a number": such a host is an IPv4 address to every resolver, in decimal, octal or hex.
    if _NUMBER.fullmatch(labels[-1]):
        if not isinstance(_parse_address(name), ipaddress.IPv4Address):
            raise WebhookRefused("A numeric host must be four plain decimal numbers.")
        return str(check_address(name, allow_cidrs=allow_cidrs))
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise WebhookRefused("The host of the URL is not a valid name.")
    if not allow_cidrs and (len(labels) == 1 or labels[-1] in _PRIVATE_NAMES):
        raise WebhookRefused("The host must be a name in the public DNS.")
    return name


def _ascii_name(host: str) -> str:
    """IDNA 2008 without mapping: full-width digits, circled letters and ideographic dots are refused."""
    try:
        return idna.encode(host.lower(), strict=True, uts46=False).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise WebhookRefused("The host of the URL is not a valid name.") from None


def _parse_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
