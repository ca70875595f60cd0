"""What an operator may decide about webhooks, and the numbers nobody needs to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from app.outbound.address import HTTPS_PORT, Network

DEADLINE_SECONDS = 15.0
"""For one whole try, from resolving the name to the end of the answer."""

ANSWER_BYTES = 65_536
"""Read at most of an answer: enough to use the connection again after an ordinary one."""

IN_FLIGHT = 256
"""Tries of one process at the same time. A waiting one costs a socket and some 50 kB."""

PER_HOST = 4
PER_TENANT = 64
"""Shares of IN_FLIGHT: neither one slow receiver nor one caller with many of them can fill the process."""


class Settings(Protocol):
    """The part of the service's settings that is read here."""

    @property
    def webhook_allow_http(self) -> bool: ...
    @property
    def webhook_allow_cidrs(self) -> Collection[Network]: ...
    @property
    def webhook_ports(self) -> Collection[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """Where deliveries may go, and how long the process takes to stop. ValueError for a port or time out of range."""

    allow_http: bool = False
    allow_cidrs: tuple[Network, ...] = ()
    allow_ports: tuple[int, ...] = (HTTPS_PORT,)
    grace_seconds: float = 8.0
    """Under the ten seconds that `docker stop` waits."""

    def __post_init__(self) -> None:
        for port in self.allow_ports:
            if not 0 < port < 65_536:
                raise ValueError(f"webhook port {port} is not between 1 and 65535")
        if self.grace_seconds < 0:
            raise ValueError("the grace of the webhooks process must not be negative")

    @classmethod
    def from_settings(cls, settings: Settings) -> WebhookOptions:
        return cls(
            allow_http=settings.webhook_allow_http,
            allow_cidrs=tuple(settings.webhook_allow_cidrs),
            allow_ports=tuple(settings.webhook_ports),
        )
