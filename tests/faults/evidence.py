"""What a run has left behind, and what was found in it.

Knows the shape of both. Refuses to judge: checker.py and accounts.py do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from app.contract.redis import keys

TENANT = "chaos"
TERMINAL = ("succeeded", "failed", "canceled")

Line = dict[str, Any]


@dataclass
class Findings:
    """Violations by name with an example each, and figures."""

    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def bad(self, what: str, example: str) -> None:
        self.violations[what] += 1
        self.examples.setdefault(what, example)


@dataclass(frozen=True)
class Evidence:
    """All there is to judge by. `arrived` counts webhooks by "<job>/<event>"; `key_id` is the API key's of all clients.

    `once`: nothing has died and no lease has run out, so that each thing has to have happened exactly once.
    """

    history: list[Line]
    diary: list[Line]
    client: redis.Redis
    pictures: Path
    arrived: Mapping[str, int]
    key_id: str
    once: bool = False

    def all_jobs(self) -> Iterator[dict[str, str]]:
        """The record of each job that is there, whether its acknowledgement arrived or not."""
        ids: Any = self.client.zrange(keys.TENANT + TENANT, 0, -1)
        for job_id in ids:
            record: Any = self.client.hgetall(keys.JOB + job_id)
            if record:
                yield record

    def diary_of(self, job_id: str, what: str) -> Iterator[Line]:
        """What workers have noted of a job."""
        return (line for line in self.diary if line["what"] == what and line["job"] == job_id)

    def acknowledged(self) -> dict[str, set[str]]:
        """Idempotency-Key to the ids that were given out for it."""
        given: dict[str, set[str]] = defaultdict(set)
        for line in self.history:
            if line["type"] == "ok" and line.get("what") == "submit":
                given[line["about"]].add(line["job"])
        return given
