"""Every option of the gateway and of webhook delivery, with its unit and the reason for its default; but for those that
workers have, too: app/contract/settings.py.

Environment prefix DARKROOM_. Knows what a value may be; refuses to know what is done with it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from app.contract.common.environment import LONGEST_SECONDS, items, read_settings
from app.contract.messages.cells import CELL_NAME
from app.contract.messages.model_name import LEGAL, is_legal, is_legal_alias
from app.contract.settings import SharedSettings
from app.edge.auth import SHORTEST_API_KEY, Keys, is_operator_token, keys_from_text
from app.edge.cells import Cells, read_cells
from app.edge.cors import origin
from app.edge.keyring import KEY_PREFIX
from app.pictures.links import LONGEST_LINK, LONGEST_SIGNED, SHORTEST_KEY

OWN_NAMES = frozenset({"v1", "pictures", "static", "problems", "healthz", "readyz", "metrics", "docs", "openapi.json"})
"""What the gateway's own paths begin with. Under a prefix of such a name, nobody could tell what a path means."""

_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def _aliases(value: Any) -> Any:
    """gpt-image-1=starter,dall-e-3=starter as a dict. Raises ValueError for names that could never lead to a model."""
    if not isinstance(value, str):
        return value
    aliases: dict[str, str] = {}
    for item in items(value):
        alias, equals, model = (part.strip() for part in item.partition("="))
        if not equals or not is_legal_alias(alias) or not is_legal(model):
            raise ValueError(f"write alias=model, commas between; a model's name is {LEGAL}")
        if alias in aliases:
            raise ValueError(f"{alias} is given twice")
        aliases[alias] = model
    for alias, model in aliases.items():
        if model in aliases:
            raise ValueError(f"{alias} leads to {model}, which is an alias itself: name the model that serves it")
    return aliases


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must look like https://pictures.example.org, without query or fragment")
    first = parts.path.strip("/").split("/")[0]
    if first in OWN_NAMES:
        raise ValueError(f"must end before the API's own paths: leave out /{first} and what follows it")
    if not _PREFIX.fullmatch(parts.path.rstrip("/")):
        raise ValueError("must have a path of letters, digits, . _ ~ and - only, or none")
    return url.rstrip("/")


Listed = (NoDecode, BeforeValidator(items))
"""A list written with commas: JSON in an environment variable helps nobody."""


class Settings(SharedSettings):
    """Read once, at the start."""

    model_config = SettingsConfigDict(populate_by_name=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on. Any but loopback needs `api_keys`")
    port: int = Field(default=8000, ge=0, le=65_535, description="TCP port; 0 takes a free one")
    gateway_processes: int | None = Field(
        default=None, ge=1, le=64, description="Processes that answer on the port. Default: 2 on two cores or more"
    )
    public_url: Annotated[str, AfterValidator(_web_address)] | None = Field(
        default=None,
        description="How clients reach the gateway, with the path that a proxy takes off, if any; without it, links "
        "repeat the Host they asked",
    )
    allowed_hosts: Annotated[tuple[str, ...], *Listed] = Field(
        default=(),
        description="Names in the Host header, commas between; *.example.org takes all below. Default: the loopback "
        "names when listening on loopback (a web page elsewhere must not reach it by rebinding), else any",
    )
    cell: str | None = Field(
        default=None,
        pattern=f"^{CELL_NAME}$",
        description="This cell's name, where there are several: 1 to 5 of 0-9 and a-z. Ids made here end with it",
    )
    cells: Annotated[dict[str, str], NoDecode, BeforeValidator(read_cells)] = Field(
        default_factory=dict,
        description="Cells and their addresses: eu1=https://eu1.example,us1=https://us1.example. Requests about what "
        "is in another cell are answered 421 with its address; the command line follows to these alone",
    )
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(origin)], ...], *Listed] = Field(
        default=(), description="Pages elsewhere whose scripts may call the API: https://app.example, commas between"
    )
    api_keys: SecretStr | None = Field(
        default=None, description="tenant:key,tenant2:key2, keys of 32 characters or more. None: open, loopback only"
    )
    require_keys: bool = Field(
        default=False,
        description="Answer only to keys, also while there are none yet: `darkroom keys create` makes them",
    )
    docs: bool = Field(default=False, description="Serve /docs, which loads its scripts from a public CDN")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="Serves /metrics on a port of its own too, without a key"
    )

    storage_public_endpoint: str | None = Field(
        default=None, description="The same server as browsers reach it, where that is another address"
    )
    storage_reserve_bytes: int = Field(
        default=2**30, ge=0, description="Free space on a local disk below which no job is taken: running ones need it"
    )

    operator_token: SecretStr | None = Field(
        default=None,
        description="While no key is needed: whoever sends this as a key is the operator. 32 characters or more. "
        "`darkroom up` makes one",
    )
    signing_key: SecretStr | None = Field(
        default=None, description="Signs picture links; the same on every gateway. 32 bytes or more"
    )
    signing_keys_accepted: SecretStr | None = Field(
        default=None,
        description="Further keys whose picture links open, commas between: the former one until its links have ended, "
        "or the next one before all gateways sign with it",
    )
    picture_url_seconds: int = Field(
        default=LONGEST_LINK,
        ge=60,
        description="How long a picture link works, at most as long as pictures are kept (and 7 days where the store "
        "signs links). It works for whoever holds it",
    )

    default_model: str | None = Field(
        default=None,
        description="Model of requests that name none. Without it, or while it is away: the only one that has a "
        "worker; if none has, the last that had",
    )
    model_aliases: Annotated[dict[str, str], NoDecode, BeforeValidator(_aliases)] = Field(
        default_factory=dict,
        description="Further names of models: gpt-image-1=starter,dall-e-3=starter. An alias hides a model of its name",
    )
    queue_limit: int = Field(default=10_000, ge=1, description="Waiting jobs per model; more are refused with 429")
    tenant_limit: int = Field(default=1_000, ge=1, description="Jobs of one tenant that are not over; more: 429")
    tenant_input_bytes: int = Field(
        default=10 * 2**30,
        ge=0,
        description="All pictures together that one tenant has sent in; more: 403. 0: no bound",
    )
    retention_hours: float = Field(
        default=24 * 7, gt=0, le=1_000_000, description="How long pictures and records are kept"
    )

    input_bytes: int = Field(
        default=20 * 2**20, ge=1024, le=64 * 2**20, description="Largest file of a picture that is sent in"
    )
    fetch_inputs: bool = Field(
        default=False,
        description="Fetch pictures that jobs name by a URL. Only public addresses over https, with up to 3 redirects",
    )
    body_seconds: float = Field(
        default=30,
        gt=0,
        le=LONGEST_SECONDS,
        description="A request body must have arrived after so long, and 8 s more for each MiB of it that has come",
    )
    stream_seconds: float = Field(
        default=600,
        gt=0,
        le=LONGEST_SECONDS,
        description="Longest life of one event stream; clients resume where it ended",
    )

    webhook_allow_http: bool = Field(default=False, description="Webhooks to http:// too: readable on the way")
    webhook_allow_cidrs: Annotated[tuple[IPv4Network | IPv6Network, ...], *Listed] = Field(
        default=(), description="Networks that webhooks may reach although they are not public"
    )
    webhook_ports: Annotated[tuple[int, ...], *Listed] = Field(
        default=(443,), description="Ports that webhooks may use beside 443, commas between"
    )

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        self.keys()
        if self.operator_token is not None and not is_operator_token(self.operator_token.get_secret_value()):
            raise ValueError(
                f"DARKROOM_OPERATOR_TOKEN is no token: give it {SHORTEST_API_KEY} to 512 visible ASCII characters, of "
                f"which the first are not {KEY_PREFIX}, as those of a key"
            )
        if self.signing_key is not None and len(self.signing_key.get_secret_value().encode()) < SHORTEST_KEY:
            raise ValueError(f"DARKROOM_SIGNING_KEY is too short: give it {SHORTEST_KEY} random bytes or more")
        if any(len(key) < SHORTEST_KEY for key in self.accepted_signing_keys()):
            raise ValueError(
                f"one of DARKROOM_SIGNING_KEYS_ACCEPTED is too short: each has {SHORTEST_KEY} bytes or more, with "
                "commas between"
            )
        if self.picture_url_seconds > (longest := self._longest_link()):
            raise ValueError(
                f"DARKROOM_PICTURE_URL_SECONDS is at most {longest} here: as long as pictures are kept "
                "(DARKROOM_RETENTION_HOURS), and 7 days where the store signs the links"
            )
        return self

    def _longest_link(self) -> int:
        kept = max(LONGEST_LINK, int(self.retention_hours * 3_600))
        signs = self.storage_url.startswith(("s3:", "gs:", "az:"))
        return min(kept, LONGEST_SIGNED) if signs else kept

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def retention_ms(self) -> int:
        """How long pictures and records are kept."""
        return int(self.retention_hours * 3_600_000)

    @property
    def own_url(self) -> str:
        """Where this machine reaches the gateway. Nobody can connect to the addresses that stand for all others."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def why_not_listen(self) -> str | None:
        """What the process that listens has to refuse, with the remedy. The others may be given the same environment:
        an image has its address for all of them, and only one needs the keys.
        """
        if self.keys() or self.require_keys or self.is_local:
            return None
        return (
            f"listening on {self.host} without keys would serve everybody: set DARKROOM_REQUIRE_KEYS=true and make "
            "keys with `darkroom keys create`, or set DARKROOM_API_KEYS=name:key (32 characters or more), or "
            "DARKROOM_HOST=127.0.0.1"
        )

    @property
    def prefix(self) -> str:
        """The path under which a proxy shows the service: "" or "/darkroom"."""
        return urlsplit(self.public_url).path if self.public_url else ""

    def known_cells(self) -> Cells:
        """This cell and the others."""
        return Cells(self.cell, {name: address for name, address in self.cells.items() if name != self.cell})

    def keys(self) -> Keys:
        """Digest of every configured key, with its tenant. ValueError if the option cannot be read."""
        return {} if self.api_keys is None else keys_from_text(self.api_keys.get_secret_value())

    def accepted_signing_keys(self) -> tuple[bytes, ...]:
        """Keys that sign nothing here, and whose links open."""
        if self.signing_keys_accepted is None:
            return ()
        return tuple(key.strip().encode() for key in self.signing_keys_accepted.get_secret_value().split(","))


def settings_from_env() -> Settings:
    """The settings as the environment has them. Raises SettingsError."""
    return read_settings(Settings)
