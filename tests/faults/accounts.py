"""What is counted and kept beside the single job: orders and their charges, usage, pictures that came in, drains.

Knows the history, the records and the files. Refuses to know how the service works.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from app.contract.messages.usage import Usage
from app.contract.objects.names import input_key
from app.contract.redis import keys
from app.contract.redis.usage_counters import USAGE_COUNTERS
from tests.faults.evidence import TENANT, TERMINAL, Evidence, Findings

IN_TIME = (408, 429)
"""Answers that say of an order only when it came: a client that stood still in the middle of it gets the first."""

OPERATOR = "operator"
"""Its requests are its own key's."""


def check_accounts(evidence: Evidence, findings: Findings) -> set[str]:
    """Answers the files that are accounted for: of pictures that came in."""
    _check_orders(evidence, findings)
    _check_usage(evidence, findings)
    _check_drains(evidence, findings)
    _check_refusals(evidence, findings)
    return _check_inputs(evidence, findings)


def _check_orders(evidence: Evidence, findings: Findings) -> None:
    """What is there in the end: one job for each order, charged once; each request counted once."""
    client, orders, cost = evidence.client, Counter[str](), 0
    for record in evidence.all_jobs():
        orders[json.loads(record["metadata"])["order"]] += 1
        cost += max(1, math.ceil(float(record["cost"])))
    for order, jobs in orders.items():
        if jobs > 1:
            findings.bad("one order, several jobs", f"{order}: {jobs}")
    charged, requests = (
        sum(int(client.hget(f"{keys.LIMITS}{name}:{evidence.key_id}", field) or 0) for field in ("used", "before"))  # type: ignore[arg-type]
        for name in ("cost", "requests")
    )
    if charged != cost:
        findings.bad("charged otherwise than owed", f"{charged} for {cost}")
    asked = sum(line["type"] == "invoke" and line["process"] != OPERATOR for line in evidence.history)
    if requests > asked:
        findings.bad("a request was counted twice", f"{requests} of {asked}")
    findings.figures["charged"] = charged


def _check_usage(evidence: Evidence, findings: Findings) -> None:
    """Every end is counted once, with the pictures that it left."""
    days: Any = [evidence.client.hget(day, TENANT) for day in evidence.client.scan_iter(f"{keys.USAGE}*")]
    sums = [sum(counts) for counts in zip(*(map(int, day.split()) for day in days if day), strict=True)]
    used = asdict(Usage(**dict(zip(USAGE_COUNTERS, sums, strict=True)))) if sums else asdict(Usage())
    ended = Counter[str]()
    for record in evidence.all_jobs():
        if record["status"] in TERMINAL:
            ended[record["status"]] += 1
            ended["pictures"] += len(json.loads(record.get("images") or "[]"))
    counted = {name: used[name] for name in (*TERMINAL, "pictures")}
    if counted != {name: ended[name] for name in counted}:
        findings.bad("used otherwise than counted", f"{counted} for {dict(ended)}")


def _check_drains(evidence: Evidence, findings: Findings) -> None:
    """Whoever was told that a worker goes on was told the truth."""
    left = {line["worker"]: line for line in evidence.diary if line["what"] == "left"}
    findings.figures["left drained"] = sum(line["drained"] for line in left.values())
    last: dict[str, str] = {}
    for line in evidence.history:
        if line.get("what") in ("drain", "undrain"):
            # What nobody answered may happen later.
            unsure = line["type"] == "info" or line.get("http", 0) >= 500 or last.get(line["about"]) == "unsure"
            last[line["about"]] = "unsure" if unsure else f"{line['what']} {line['type']}"
    for worker, said in last.items():
        if said == "undrain ok" and worker in left and left[worker]["drained"]:
            findings.bad("left after its drain was taken back", worker)


def _check_refusals(evidence: Evidence, findings: Findings) -> None:
    """There is nothing wrong with the orders, and a picture that came in is there until somebody asks for its end."""
    deleted: set[str] = set()
    for line in evidence.history:
        if line.get("what") == "delete" and line["type"] == "invoke":
            deleted.add(line["about"])
        refused = line["type"] == "fail" and line["what"] in ("submit", "upload") and line["http"] < 500
        if refused and line["http"] not in IN_TIME and line.get("picture") not in deleted:
            findings.bad("an order was refused", f"{line['about']}: {line['said']}")


def _check_inputs(evidence: Evidence, findings: Findings) -> set[str]:
    """Each record has its file, and the other way round."""
    there: Any = evidence.client.zrange(keys.INPUTS_OF + TENANT, 0, -1)
    # Nobody's: their time has not come yet.
    orphans: Any = evidence.client.zrange(keys.INPUT_ORPHANS, 0, -1)
    wanted = {input_key(TENANT, orphan.split("/")[2]) for orphan in orphans}
    findings.figures["inputs"] = len(there)
    for line in evidence.history:
        if line.get("what") == "no file":
            findings.bad("an input without its file", line["about"])
    for picture in there:
        sha256: Any = evidence.client.hget(keys.INPUT + picture, "sha256")
        if sha256 is None:
            continue
        file = evidence.pictures / input_key(TENANT, sha256)
        # What a gateway that was killed has left of the same file goes with the record.
        halves = file.parent.glob(f".{file.name}.*.tmp")
        wanted |= {str(each.relative_to(evidence.pictures)) for each in (file, *halves)}
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            findings.bad("an input without its file", picture)
    return wanted
