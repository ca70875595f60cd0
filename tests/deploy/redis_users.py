"""What each process may do in Redis, read from what it does: commands and keys of its scripts, and what it asks itself.

`python -m tests.deploy.redis_users` prints deploy/redis/users.acl.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.contract.redis import keys
from app.contract.redis.scripts import source

OUTBOX = ("due", "relay", "take", "beat", "settle", "resend")
INPUTS = ("begin", "add", "drop", "remove", "removed", "read", "list", "held")


@dataclass(frozen=True)
class User:
    """One process of the service. Names of keys are those of keys.py."""

    about: str
    scripts: tuple[str, ...]
    """Files of app/contract/redis/scripts, each with what it uses of the shared ones."""
    commands: str
    """Beside those of the scripts."""
    names: str
    """Keys and prefixes, beside those of the scripts."""
    read_only: str = ""
    """Of these nothing is written, by scripts neither."""
    rq: bool = True
    """Whether it registers itself with RQ. Its scripts keep RQ's view of the jobs in any case."""


RQ_COMMANDS = "del exists expire get hdel hget hgetall hset publish sadd scard set smembers srem zadd zrem llen lrange"
"""Of rq 3.0.0's registration, beats and commands."""

USERS = {
    "gateway": User(
        "Takes jobs, shows them, tidies up. Reads API keys and makes none: `darkroom keys` is the operator's.",
        (
            "submit",
            "known",
            "read",
            "retry",
            "cancel",
            "reap",
            "forget",
            "models",
            "model_alias",
            "list",
            "index",
            "tally",
            "newest",
            "pause",
            "resume",
            "drain",
            "undrain",
            "audit",
            "count",
            "pending_join",
            "pending_hold",
            "watch",
            "webhook_secret",
            *(f"input_{name}" for name in INPUTS),
            *(f"outbox_{name}" for name in OUTBOX),
        ),
        "del exists expire get getex hdel hexists hget hgetall hkeys hmget hscan hset lindex lrange mget set setrange "
        "smembers xadd xrange xread xrevrange zadd zcard zcount zrange zrangebyscore zrank zrem zrevrange zscan zscore",
        "JOB EVENTS TENANT ENDED OPEN LEASES QUEUED EXPIRY ORPHANS DEAD EPOCH IDEMPOTENCY LOST OUTBOX DELIVERIES CARDS "
        "STORE_WORDS DEADLINES ALIVE SEEN STARTING WORKER DRAINING MODELS_QUEUED "
        "PREVIEW WAKE PENDING STREAM_TOKEN LIMITS CHECKPOINT INTERRUPTED WRITE_PROBE INPUT "
        "INPUT_EXPIRY INPUT_ORPHANS INPUT_UPLOADS INPUT_REMOVAL REAPER_LOCK SNAPSHOT_OBJECTS",
        read_only="API_KEYS API_KEYS_VERSION",
        rq=False,
    ),
    "worker": User(
        "Claims jobs of its model and ends them. Sees no API key, no stream's token and no webhook's secret.",
        (
            "claim",
            "pass_on",
            "beat",
            "progress",
            "preview",
            "snapshot",
            "finish",
            "give_back",
            "announce",
            "leave",
            "starting",
            "worker_lost",
            "demand",
            "take_up",
            "taken_up",
        ),
        # HSETNX is of the script by which workers of before snapshots claim: without it a claim breaks half-way, its
        # job in no queue and without a lease. They run beside newer ones in an upgrade, and after one that is undone.
        RQ_COMMANDS + " bzpopmin hsetnx",
        "JOB",
    ),
    "webhooks": User(
        "Delivers what jobs owe. Sees no API key, only reads records and queues, and takes and ends no job.",
        ("webhook_secret", "models", "read", *(f"outbox_{name}" for name in OUTBOX)),
        RQ_COMMANDS + " lpush mget zcard zrank zrange",
        "LOST EPOCH OUTBOX OUTBOX_STATE OWED DELIVERIES CARDS",
        read_only="JOB QUEUED MODEL_ALIASES",
    ),
}

EVERYBODY = (
    "+@connection +@transaction +@scripting +@pubsub -@dangerous +info +time +client|list -script|flush -script|kill"
)
"""Nothing of it reads or writes a key by itself: what a script does is judged like what a client does."""

OF_OTHERS = {
    # darkroom keys, darkroom models forget, darkroom jobs dead, rq info.
    "operator": "~darkroom:* ~rq:* resetchannels &rq:pubsub:* -@all +@read +@write " + EVERYBODY,
    # Redis' own: `sentinel auth-user SERVICE sentinel`, and `masteruser replica`. As Valkey's documentation has them.
    "sentinel": "resetchannels &* -@all +multi +slaveof +replicaof +ping +exec +subscribe +config|rewrite +role "
    "+publish +info +client|setname +client|kill +script|kill",
    "replica": "resetchannels -@all +psync +replconf +ping",
}


def commands_of(user: User) -> list[str]:
    found = {name.lower() for script in _sources(user) for name in re.findall(r"redis\.p?call\('([A-Z]+)'", script)}
    if user.rq:
        found |= {*RQ_COMMANDS.split()}
    return sorted((found | {*user.commands.split()}) - {"publish", "time"})


def patterns_of(user: User) -> list[str]:
    words = {word for script in _sources(user) for word in re.findall(r"\b[A-Z][A-Z_]+\b", script)}
    used = ({name for name in _names() if name in words} | {*user.names.split()}) - {*user.read_only.split()}
    full = {_pattern(getattr(keys, name)) for name in used}
    only_read = {f"%R~{_pattern(getattr(keys, name))}" for name in user.read_only.split()}
    return [*sorted(f"~{each}" for each in full), *sorted(only_read), "~rq:*"]


def _sources(user: User) -> Iterable[str]:
    for name in user.scripts:
        yield source(name, *(["outbox"] if name.startswith("outbox_") else []))


def _names() -> list[str]:
    """Those of keys.py that are a key, or the beginning of keys."""
    values = {name: value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    return [name for name, value in values.items() if value.startswith(keys.PREFIX) and value != keys.PREFIX]


def _pattern(key: str) -> str:
    return f"{key}*" if key.endswith(":") else key


def users_file() -> str:
    """The whole file. It may hold nothing but users: Redis refuses a comment in it."""
    rules = {
        name: " ".join(
            [
                *patterns_of(user),
                "resetchannels &rq:pubsub:* -@all",
                *(f"+{each}" for each in commands_of(user)),
                EVERYBODY,
            ]
        )
        for name, user in USERS.items()
    }
    lines = [f"user {name} on >REPLACE-ME-{name} resetkeys {rule}" for name, rule in (rules | OF_OTHERS).items()]
    return "\n".join([*lines, "user default off"]) + "\n"


if __name__ == "__main__":
    print(users_file(), end="")
