"""One line of the audit: who changed what, and what came of it. No prompt, no key and no secret is in it."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_ID = re.compile(r"aud_[0-9a-f]{24}")

Via = Literal["api", "machine"]


@dataclass(frozen=True, slots=True)
class Operator:
    """Who changes something: a key of a tenant, or somebody who can reach the service's Redis (no key, no tenant)."""

    tenant: str = ""
    key_id: str = ""
    via: Via = "machine"


class Change(BaseModel):
    """What is kept of a change beside its moment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: str = Field(
        description="pause, resume, drain, undrain, cancel, retry, or of `darkroom keys` and `darkroom models`"
    )
    target: str = Field(description="The model, worker, tenant, job or key")
    outcome: str
    tenant: str = Field(description="Whose key it was; empty from the service's own machine")
    key_id: str = Field(description="Which key; empty without one")
    via: Via

    @classmethod
    def by(cls, operator: Operator, action: str, target: str, outcome: str) -> Change:
        who = {"tenant": operator.tenant, "key_id": operator.key_id, "via": operator.via}
        return cls(action=action, target=target, outcome=outcome, **who)

    def line(self) -> str:
        """As Redis keeps it, under an id of its own: a line that is sent twice is the same one. Of two in the same
        millisecond of Redis the ids say which was made first."""
        return f"aud_{time.time_ns():016x}{secrets.token_hex(4)} {self.model_dump_json()}"

    @staticmethod
    def ended(line: str, outcome: str) -> str:
        """The line of a change that had begun, once it is known what came of it. Its id stays."""
        entry = Entry.read(line, 0)
        return f"{entry.id} {entry.change.model_copy(update={'outcome': outcome}).model_dump_json()}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A change, and when it was (ms of Redis time)."""

    id: str
    at_ms: int
    change: Change

    @classmethod
    def read(cls, line: str, at_ms: int) -> Entry:
        entry_id, _, change = line.partition(" ")
        return cls(entry_id, at_ms, Change.model_validate_json(change))


def is_change_id(text: str) -> bool:
    """Could this be the id of an entry?"""
    return _ID.fullmatch(text) is not None
