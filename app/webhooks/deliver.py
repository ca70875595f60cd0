"""One try: a signed body goes to a judged target, and the answer is judged. Knows no Redis and plans nothing.

httpcore2's pool and not a client: no cookies, no redirects, no proxies from the environment, no unpacking of answers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import httpcore2

from app import __version__
from app.outbound.address import Target, WebhookRefused
from app.webhooks.options import ANSWER_BYTES, DEADLINE_SECONDS, IN_FLIGHT

IDLE_SECONDS = 20.0
"""How long a connection is kept for the receiver's next message. It was judged when it was made."""


class Verdict(StrEnum):
    """What an answer means."""

    DELIVERED = "delivered"
    FAILED = "failed"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a try. `detail` is a sentence for the log its owner reads; it holds no URL and no address."""

    status: int | None = None
    detail: str = ""
    retry_after: str | None = None

    @property
    def verdict(self) -> Verdict:
        if self.status is not None and 200 <= self.status < 300:
            return Verdict.DELIVERED
        return Verdict.DISABLED if self.status == 410 else Verdict.FAILED


class Sender:
    """Sends messages over connections that it keeps. Close it with `aclose`."""

    def __init__(
        self,
        backend: httpcore2.AsyncNetworkBackend,
        *,
        ssl_context: ssl.SSLContext | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._deadline = deadline
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or httpcore2.default_ssl_context(),
            max_connections=IN_FLIGHT,
            max_keepalive_connections=IN_FLIGHT // 4,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=backend,
        )

    async def post(self, target: Target, headers: Mapping[str, str], body: str) -> Answer:
        """Try once. Whatever goes wrong on the way is an Answer without a status; nothing is raised for it."""
        try:
            return await self._post(target, headers, body.encode())
        except WebhookRefused as refusal:
            return Answer(detail=str(refusal))
        except TimeoutError:
            return Answer(detail=f"There was no answer within {self._deadline:g} s.")
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            return Answer(detail=_why_not_connected(error))
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
            return Answer(detail="The connection broke before there was an answer.")

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        fields = {
            "host": target.authority,
            "user-agent": f"Darkroom/{__version__} (webhooks)",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **headers,
        }
        answer: Answer | None = None
        try:
            async with (
                asyncio.timeout(self._deadline),
                self._pool.stream("POST", url, headers=list(fields.items()), content=body) as response,
            ):
                answer = _read_head(response)
                await _drain(response)
        except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
            # The status was the answer; what happens to its body changes nothing.
            if answer is None:
                raise
        if answer is None:
            raise AssertionError("a response without a head. This is a bug.")
        return answer


def _read_head(response: httpcore2.Response) -> Answer:
    status = response.status
    retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
    detail = "Redirects are not followed; give the URL they lead to." if 300 <= status < 400 else ""
    return Answer(status, detail, retry_after.decode("latin-1") if retry_after and status in (429, 503) else None)


async def _drain(response: httpcore2.Response) -> None:
    """Read a small answer to its end, so that the connection can be used again; leave a large one."""
    read = 0
    async for chunk in response.aiter_stream():
        read += len(chunk)
        if read > ANSWER_BYTES:
            return


def _why_not_connected(error: Exception) -> str:
    if isinstance(error.__cause__ or error.__context__, ssl.SSLError):
        return "The TLS handshake failed: the certificate must be valid and made for this name."
    if isinstance(error, httpcore2.ConnectTimeout):
        return "The receiver could not be reached in time."
    return "The receiver could not be reached."
