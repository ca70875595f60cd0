"""Which environment variables Darkroom reads, and how: a misspelt one is refused instead of ignored, an empty one is a
missing one, and a secret that was copied from an example is none.

Gateway, workers and webhooks are usually given one environment: each side must know the other's names without
importing the other.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings

PREFIX = "DARKROOM_"

TEST_PREFIX = "DARKROOM_TEST_"
"""Switches of the test suite; no process of the product reads them."""

WORKER_NAME = "DARKROOM_WORKER_NAME"
"""From `darkroom up` to its worker: how Redis shall call it. No setting: a name must be another one at every start."""

CLIENT = frozenset({"DARKROOM_URL", "DARKROOM_API_KEY"})
"""Read by the commands that speak to a service. Whoever exports them may start a service as well."""

GATEWAY = frozenset(
    {
        "DARKROOM_ALLOWED_HOSTS",
        "DARKROOM_API_KEYS",
        "DARKROOM_BODY_SECONDS",
        "DARKROOM_CELL",
        "DARKROOM_CELLS",
        "DARKROOM_CORS_ORIGINS",
        "DARKROOM_DEFAULT_MODEL",
        "DARKROOM_DOCS",
        "DARKROOM_FETCH_INPUTS",
        "DARKROOM_GATEWAY_PROCESSES",
        "DARKROOM_HOST",
        "DARKROOM_INPUT_BYTES",
        "DARKROOM_METRICS_PORT",
        "DARKROOM_MODEL_ALIASES",
        "DARKROOM_PICTURE_URL_SECONDS",
        "DARKROOM_PORT",
        "DARKROOM_PUBLIC_URL",
        "DARKROOM_QUEUE_LIMIT",
        "DARKROOM_REQUIRE_KEYS",
        "DARKROOM_RETENTION_HOURS",
        "DARKROOM_OPERATOR_TOKEN",
        "DARKROOM_SIGNING_KEY",
        "DARKROOM_SIGNING_KEYS_ACCEPTED",
        "DARKROOM_STORAGE_PUBLIC_ENDPOINT",
        "DARKROOM_STORAGE_RESERVE_BYTES",
        "DARKROOM_STREAM_SECONDS",
        "DARKROOM_TENANT_INPUT_BYTES",
        "DARKROOM_TENANT_LIMIT",
        "DARKROOM_WEBHOOK_ALLOW_CIDRS",
        "DARKROOM_WEBHOOK_ALLOW_HTTP",
        "DARKROOM_WEBHOOK_PORTS",
    }
)
"""Fields of app/settings.py that a worker does not have. A test keeps the two equal."""

WORKER = frozenset(
    {
        "DARKROOM_CHANNELS_LAST",
        "DARKROOM_COMPILE",
        "DARKROOM_CONTROLNETS",
        "DARKROOM_CONTROLNETS_KEPT",
        "DARKROOM_DEVICE",
        "DARKROOM_DTYPE",
        "DARKROOM_EMBEDDINGS",
        "DARKROOM_GRACE_SECONDS",
        "DARKROOM_GRAPHS",
        "DARKROOM_HEARTBEAT_FILE",
        "DARKROOM_HOLD_SECONDS",
        "DARKROOM_LORAS",
        "DARKROOM_MODEL",
        "DARKROOM_MODELS",
        "DARKROOM_MODEL_NAME",
        "DARKROOM_PARK_SECONDS",
        "DARKROOM_PRIOR",
        "DARKROOM_PROFILE_FOLDER",
        "DARKROOM_SAFETY",
        "DARKROOM_SCORER",
        "DARKROOM_SEATS",
        "DARKROOM_SNAPSHOT_KIB_PER_SECOND",
        "DARKROOM_SNAPSHOT_MAX_MIB",
        "DARKROOM_SNAPSHOT_SECONDS",
        "DARKROOM_STALL_SECONDS",
        "DARKROOM_THREADS",
        "DARKROOM_VAE",
        "DARKROOM_WORKER_METRICS_PORT",
    }
)
"""Fields of worker/settings.py that the gateway does not have. A test keeps the two equal."""

UP = frozenset({"DARKROOM_UP_DEVICES", "DARKROOM_UP_MODELS", "DARKROOM_UP_WORKERS"})
"""What `darkroom up` alone reads: fields of app/cli/up_settings.py. Its processes are given the same environment."""

OTHERWISE = {"DARKROOM_DATA": "; --data names the data folder"}
"""What is said in another way, beside all that is."""

ASKING_FOR_KEYS = ("DARKROOM_API_KEYS", "DARKROOM_REQUIRE_KEYS")
"""Empty, these are refused: what was meant to close the service expanded to nothing, and missing would mean open."""

_EXAMPLE = re.compile(r"(?:change|replace)[-_ ]?me|placeholder", re.IGNORECASE)

LONGEST_SECONDS = 366 * 86_400
"""Of a setting in seconds: a year. Clocks and locks take no number of seconds that is much longer than a life."""

S = TypeVar("S", bound=BaseSettings)


class SettingsError(Exception):
    """The process cannot start like this. `str()` is one sentence that names the option and the remedy."""


def read_settings(kind: type[S]) -> S:
    """Settings as the environment has them. SettingsError for an unknown name or a value that cannot be.

    `kind` ignores empty variables (`env_ignore_empty`), which is what `given` does for a whole environment.
    """
    own = {PREFIX + name.upper() for name in kind.model_fields}
    for name, closest in unknown_variables(os.environ, own | GATEWAY | WORKER | UP | CLIENT).items():
        hint = f"; did you mean {closest}?" if closest else OTHERWISE.get(name, ": remove it")
        raise SettingsError(f"{name} is not an option of Darkroom{hint}")
    for name in ASKING_FOR_KEYS:
        if os.environ.get(name) == "":
            raise SettingsError(f"{name} is empty: give it a value, or remove it to serve this machine without keys")
    try:
        settings = kind()
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None
    _refuse_examples(settings)
    return settings


def items(value: Any) -> Any:
    """A list as a variable has it, with commas: JSON in the environment helps nobody. Other values as they are."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def given(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without those of our variables that are empty, which mean the same as missing ones."""
    names = {"REDIS_URL", *(name for name in environ if name.startswith(PREFIX))} - set(ASKING_FOR_KEYS)
    return {name: value for name, value in environ.items() if value or name not in names}


def _refuse_examples(settings: BaseSettings) -> None:
    """A word that stands in an example is known to everybody."""
    for name, value in settings:
        found = _EXAMPLE.search(value.get_secret_value()) if isinstance(value, SecretStr) else None
        if found:
            remedy = "put a secret of your own there; `openssl rand -hex 32` makes one"
            raise SettingsError(f"{PREFIX}{name.upper()} holds a word of an example, {found[0]!r}: {remedy}")


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> dict[str, str | None]:
    """DARKROOM_ variables that nobody reads, each with the closest name that somebody does."""
    names = sorted(known)
    strangers = [
        name for name in environ if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and name not in names
    ]
    # By what stands behind the prefix: that all have in common, and it makes every name look like every other.
    own = {name.removeprefix(PREFIX): name for name in names}
    close = {name: difflib.get_close_matches(name.removeprefix(PREFIX), own, n=1) for name in sorted(strangers)}
    return {name: own[found[0]] if found else None for name, found in close.items()}


def _sentence(error: ValidationError) -> str:
    # Never the value: it may be a key.
    first = error.errors(include_input=False, include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0]).upper()
    if name == "DARKROOM_REDIS_URL" and not os.environ.get(name):
        name = "REDIS_URL"  # pydantic names the first of the two, whichever was set
    return f"{name if name.startswith(PREFIX) or name == 'REDIS_URL' else PREFIX + name}: {message}"
