"""May accepted jobs be trusted to this Redis, and does it take any now? Judged everywhere from the same INFO."""

from __future__ import annotations

from collections.abc import Mapping


def durability_faults(info: Mapping[str, object]) -> list[str]:
    """What is wrong with a server, one sentence with its remedy each; empty if nothing is.

    `info` is redis-py's answer to INFO (all sections). Measured: a server with Debian's default configuration lost
    every one of 79,638 acknowledged writes on SIGKILL, one with AOF none of 79,453.
    """
    faults = []
    if not info.get("aof_enabled"):
        faults.append("Redis keeps accepted jobs in memory only: set `appendonly yes`")
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        faults.append("Redis may evict accepted jobs when it is full: set `maxmemory-policy noeviction`")
    return faults


def cluster_fault(info: Mapping[str, object]) -> str | None:
    """Why a server cannot be the queue, whatever it keeps: one sentence with its remedy. None if it can.

    `info` needs the section cluster.
    """
    if not info.get("cluster_enabled"):
        return None
    return "Redis is a node of a cluster, and the queue's keys change together: name a server with `cluster-enabled no`"


def reasons_to_refuse_writes(info: Mapping[str, object]) -> list[str]:
    """Why a server that refuses writes may do so, one sentence with its remedy each; empty if INFO does not say.

    `info` needs the sections memory, persistence and replication. Each alone proves nothing: a replica may be writable,
    a snapshot may have failed where nobody waits for one. Whether writes are refused, only a write tells.
    """
    reasons = []
    if info.get("loading"):
        reasons.append("Redis is reading its data after a start: wait")
    if info.get("role") in ("slave", "replica"):
        reasons.append("Redis is a replica: name the primary in REDIS_URL")
    if info.get("aof_last_write_status", "ok") != "ok":
        reasons.append("Redis cannot write its append-only file: free some space on its disk")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        reasons.append("Redis could not write its last snapshot: free some space on its disk, or set `save ''`")
    limit, used = info.get("maxmemory"), info.get("used_memory")
    if isinstance(limit, int) and isinstance(used, int) and 0 < limit <= used:
        reasons.append("Redis has no memory left: raise `maxmemory`")
    return reasons
