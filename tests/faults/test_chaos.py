"""One short seed of chaos, and proof that its checker sees. Longer: `make chaos SEED=1 SECONDS=300`."""

from __future__ import annotations

from pathlib import Path

from tests.faults.chaos import run
from tests.faults.installation import ForkServer


def test_a_short_chaos_breaks_no_promise(tmp_path: Path, fork_server: ForkServer) -> None:
    findings = run(tmp_path, fork_server, seed=1, seconds=4)
    assert findings.violations == {}, findings.examples
    assert findings.figures["jobs"] > 10
    assert sum(findings.figures["stage kills"].values()) > 0


def test_the_checker_sees_a_mutant(tmp_path: Path, fork_server: ForkServer) -> None:
    findings = run(tmp_path, fork_server, seed=1, seconds=2, mutant="no reaper", drain=2)
    assert findings.violations["never ended"]


def test_lost_replies_change_nothing(tmp_path: Path, fork_server: ForkServer) -> None:
    """One job for each order, one attempt, one set of files, one end, one charge, one webhook."""
    findings = run(tmp_path, fork_server, seed=1, seconds=3, only_replies=True)
    assert findings.violations == {}, findings.examples
    lost = findings.figures["of"]
    assert lost.keys() >= {"submit", "claim", "finish", "announce", "count", "exec"}
    assert lost.keys() >= {"outbox_due", "outbox_relay", "outbox_take", "outbox_settle", "webhook_secret"}


def test_the_checker_sees_a_submit_that_is_not_recognised(tmp_path: Path, fork_server: ForkServer) -> None:
    findings = run(tmp_path, fork_server, seed=1, seconds=2, mutant="submit not recognised", drain=2, only_replies=True)
    assert findings.violations["told twice"]
    assert findings.violations["charged otherwise than owed"]
