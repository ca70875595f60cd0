"""Reads what was said and what is left, and finds every promise that was broken.

Knows the history, the diary of deaths, the records and the files; refuses to know how the service works. What goes
beyond single jobs is in accounts.py.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from app.contract.objects.names import CELL_MARK, CELL_WORD
from app.contract.objects.store import PROBES
from app.contract.redis import keys
from tests.faults.accounts import check_accounts
from tests.faults.evidence import TENANT, TERMINAL, Evidence, Findings

RECLAIM_SECONDS = 35.0
"""Promised while Redis and a gateway are up."""

EXCUSE_SECONDS = 3.0
"""For each death of Redis or of the gateway in between: both come back within so many."""

ABOUT_JOBS = ("submit", "look", "cancel")


def check(evidence: Evidence) -> Findings:
    """Judge a run that has come to rest: no process is alive any more but Redis."""
    findings = Findings()
    given = evidence.acknowledged()
    # A job whose acknowledgement was lost is a job like any other.
    there: set[str] = set(evidence.client.zrange(keys.TENANT + TENANT, 0, -1))  # type: ignore[arg-type]
    ids = sorted(there.union(*given.values()))
    for key, found in given.items():
        if len(found) != 1:
            findings.bad("one key, several jobs", key)
    _check_answers(evidence, findings)
    wanted = check_accounts(evidence, findings)
    for job_id in ids:
        wanted |= _check_job(evidence, findings, job_id)
    _check_leftovers(evidence, findings, wanted)
    _measure(evidence, findings, ids)
    return findings


def _check_answers(evidence: Evidence, findings: Findings) -> None:
    """What clients saw: no acknowledged job denied, no key without a job, no status that went back."""
    seen: dict[str, str] = {}
    for line in evidence.history:
        about = line.get("about", "")
        if line["type"] == "fail" and line["http"] in (401, 404, 410) and line["what"] in ABOUT_JOBS:
            findings.bad("a job or key was denied", f"{line['what']} {about} {line['http']}")
        if line["type"] == "fail" and line["http"] == 500:
            findings.bad("an answer was 500", f"{line['what']} {about}")
        if line["type"] == "ok" and line.get("status"):
            before, job = seen.get(line["job"]), line["job"]
            if before in TERMINAL and line["status"] != before:
                findings.bad("status went back", f"{job}: {before}, then {line['status']}")
            seen[job] = line["status"]


def _check_told_once(evidence: Evidence, findings: Findings, record: Mapping[str, str]) -> None:
    """No event twice: one beginning, and steps that only rise within an attempt."""
    step, begun = 0, 0
    for _, fields in evidence.client.xrange(keys.EVENTS + record["id"]):  # type: ignore[union-attr]
        begun += fields["event"] == "job.queued"
        if fields["event"] == "job.progress":
            before, step = step, json.loads(fields["data"])["step"]
            if step <= before:
                findings.bad("told twice", f"{record['id']}: step {step} after {before}")
        else:
            step = 0
    if begun != 1:
        findings.bad("told twice", f"{record['id']}: queued {begun} times")


def _check_once(evidence: Evidence, findings: Findings, record: Mapping[str, str]) -> None:
    job_id, fact = record["id"], f"{record['id']}/job.{record['status']}"
    if int(record["attempt"]) > 1 or int(record["failures"]):
        findings.bad("an attempt was lost", job_id)
    if evidence.arrived.get(fact, 0) > 1:
        findings.bad("a webhook came twice", fact)
    tries = evidence.client.llen(f"{keys.DELIVERIES}{job_id}")
    if tries != 1:
        findings.bad("a delivery is not logged once", f"{fact}: {tries}")


def _check_job(evidence: Evidence, findings: Findings, job_id: str) -> set[str]:
    """One job; answers the files that belong to it."""
    record: dict[str, str] = evidence.client.hgetall(keys.JOB + job_id)  # type: ignore[assignment]
    if not record:
        findings.bad("lost", job_id)
        return set()
    story = [fields["event"] for _, fields in evidence.client.xrange(keys.EVENTS + job_id)]  # type: ignore[union-attr]
    ends = [event for event in story if event.removeprefix("job.") in TERMINAL]
    status = record["status"]
    if status not in TERMINAL:
        findings.bad("never ended", f"{job_id} is {status}")
        if status == "queued" and evidence.client.zscore(keys.QUEUED + record["model"], job_id) is None:
            findings.bad("queued nowhere", job_id)
        return set()
    if evidence.client.exists(keys.SNAPSHOT + job_id):
        findings.bad("a snapshot outlived its job", job_id)
    if ends != [f"job.{status}"] or story[-1] != ends[0]:
        findings.bad("not exactly one end", f"{job_id}: {story}")
    if int(record["failures"]) > keys.MAX_ATTEMPTS:
        findings.bad("too many attempts", job_id)
    _check_resumed(evidence, findings, record)
    if story.count("job.started") != int(record["attempt"]):
        findings.bad("attempts and starts differ", job_id)
    poison = json.loads(record["spec"])["prompt"] == "poison"
    if poison and status == "succeeded":
        findings.bad("a poison succeeded", job_id)
    if status == "failed" and (slug := json.loads(record["error"])["slug"]) != "attempts-exhausted":
        what = "an input went before its job" if slug == "input-missing" else "failed for no reason"
        findings.bad(what, f"{job_id}: {record['error']}")
    findings.figures.setdefault("ends", Counter())[("poison " if poison else "") + status] += 1
    _check_told_once(evidence, findings, record)
    _check_webhook(evidence, findings, f"{job_id}/job.{status}", job_id)
    if evidence.once:
        _check_once(evidence, findings, record)
    return _check_pictures(evidence, findings, record) if status == "succeeded" else set()


def _check_resumed(evidence: Evidence, findings: Findings, record: Mapping[str, str]) -> None:
    """An attempt goes on from a step that was reached, and takes none a second time; a suspect starts over. So does
    whoever could not read the snapshot that the claim has promised, since Redis was away for a moment."""
    job_id, attempt, began = record["id"], 0, 0
    # As the service shows them, where no attempt has told of any.
    steps = int(record.get("steps") or 0) or json.loads(record["spec"])["num_inference_steps"]
    entries: Any = evidence.client.xrange(keys.EVENTS + job_id)
    really = _really_begun(evidence, job_id, entries)
    for _, fields in entries:
        told = json.loads(fields["data"])
        if fields["event"] == "job.started":
            attempt, promised = told["attempts"], told.get("resumed_at_step", 0)
            began = really.get(attempt, promised)
            how = "from the start" if not began else "went on"
            findings.figures.setdefault("resumed", Counter())["could not be read" if began < promised else how] += 1
            if began > promised:
                findings.bad("went on from what was not promised", f"{job_id}: {began}, not {promised}")
            if began and began >= steps:
                findings.bad("went on behind its end", f"{job_id}: {began} of {steps}")
        elif fields["event"] == "job.progress" and told["step"] <= began:
            findings.bad("a step was taken twice", f"{job_id}: {told['step']} after {began}")


def _really_begun(evidence: Evidence, job_id: str, entries: Any) -> dict[int, int]:
    """Steps behind each attempt as its engine began. Not of one that was asleep until the next had started: it may have
    found what that one has kept, and all that it does is refused."""
    started = [int(at.split("-")[0]) / 1000 for at, fields in entries if fields["event"] == "job.started"]
    begun = evidence.diary_of(job_id, "begun")
    in_time = (line for line in begun if all(line["at"] < at for at in started[line["attempt"] :]))
    return {line["attempt"]: line["behind"] for line in in_time}


def _check_webhook(evidence: Evidence, findings: Findings, fact: str, job_id: str) -> None:
    tries = [json.loads(line) for line in evidence.client.lrange(keys.DELIVERIES + job_id, 0, -1)]  # type: ignore[union-attr]
    exhausted = any(each["outcome"] == "exhausted" or each["next_ms"] is None for each in tries)
    if not evidence.arrived.get(fact) and not exhausted:
        findings.bad("a webhook was forgotten", fact)


def _check_pictures(evidence: Evidence, findings: Findings, record: Mapping[str, str]) -> set[str]:
    images = json.loads(record["images"])
    if len(images) != json.loads(record["spec"])["num_images"]:
        findings.bad("an incomplete image set", record["id"])
    for image in images:
        file = evidence.pictures / image["key"]
        if not file.exists():
            findings.bad("a picture is missing", image["key"])
        elif hashlib.sha256(file.read_bytes()).hexdigest() != image["sha256"]:
            findings.bad("a picture is another one", image["key"])
    return {image["key"] for image in images}


def _check_leftovers(evidence: Evidence, findings: Findings, wanted: set[str]) -> None:
    files = {str(file.relative_to(evidence.pictures)) for file in evidence.pictures.rglob("*") if file.is_file()}
    # A probe's process was killed: its folder is emptied half a day later.
    for file in sorted(file for file in files - wanted - {CELL_MARK, CELL_WORD} if not file.startswith(f"{PROBES}/")):
        findings.bad("a file of nobody", file)
    client = evidence.client
    for name in (keys.LEASES, keys.OUTBOX, keys.ORPHANS):
        if left := client.zrange(name, 0, -1):
            findings.bad("left in redis", f"{name}: {left[:3]}")  # type: ignore[index]
    for pattern in (
        "rq:queue:generate-*",
        "rq:job:job_*",
        "rq:execution:job_*",
        "rq:wip:generate-*",
        "darkroom:open:*",
        "darkroom:owed:*",
        "darkroom:input-uses:*",
    ):
        for key in client.scan_iter(pattern):
            findings.bad("left in redis", key)
    for name in (keys.QUEUED, keys.TURNS, keys.NEXT_TURN, keys.STANDING, keys.CLOCK):
        for key in client.scan_iter(f"{name}*"):
            findings.bad("left in redis", key)


def _measure(evidence: Evidence, findings: Findings, ids: list[str]) -> None:
    figures = findings.figures
    figures["jobs"] = len(ids)
    figures["stage kills"] = dict(Counter(line["stage"] for line in evidence.diary if line["what"] == "killed"))
    figures["refused zombies"] = sum(line["what"] == "refused" for line in evidence.diary)
    figures["ran alone"] = sum(line["what"] == "claimed" and line["alone"] for line in evidence.diary)
    for line in evidence.diary:
        if line["what"] == "claimed" and line["alone"] and line["holding"]:
            findings.bad("a suspect had company", line["job"])
    figures["webhooks"] = sum(evidence.arrived.values())
    figures["webhook duplicates"] = sum(count - 1 for count in evidence.arrived.values())
    waits = []
    for job, died, waited in _reclaims(evidence):
        waits.append(waited)
        if waited > RECLAIM_SECONDS + EXCUSE_SECONDS * _deaths_between(evidence, died, died + waited):
            findings.bad("reclaimed too late", f"{job} after {waited:.1f} s")
    waits.sort()
    if waits:
        figures["reclaimed"] = len(waits)
        figures["reclaim p50 s"] = round(statistics.median(waits), 2)
        figures["reclaim p100 s"] = round(waits[-1], 2)


def _deaths_between(evidence: Evidence, start: float, end: float) -> int:
    """Of what a reclaim needs."""
    return sum(
        line.get("what") in ("redis killed", "gateway killed") and start - 2 < line["at"] < end
        for line in evidence.history
    )


def _reclaims(evidence: Evidence) -> Iterator[tuple[str, float, float]]:
    """Job, time of its worker's death, and seconds from then until it was queued again."""
    deaths = {line["pid"]: line["at"] for line in evidence.diary if line["what"] == "killed"}
    deaths |= {line["pid"]: line["at"] for line in evidence.history if line.get("what") == "worker killed"}
    stories: dict[str, list[tuple[float, str]]] = {}
    for line in evidence.diary:
        died = deaths.get(line["pid"])
        if line["what"] != "claimed" or died is None:
            continue
        job = line["job"]
        if job not in stories:
            entries: Any = evidence.client.xrange(keys.EVENTS + job)
            stories[job] = [
                (int(at.split("-")[0]) / 1000, fields["event"])
                for at, fields in entries
                if fields["event"] != "job.progress"
            ]
        after = [(at, event) for at, event in stories[job] if at > line["at"] and event != "job.started"]
        if after and after[0][1] == "job.restarted" and after[0][0] >= died:
            yield job, died, after[0][0] - died
