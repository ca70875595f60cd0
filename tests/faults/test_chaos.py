"""One short seed of chaos, and proof that its checker sees. Longer: `make chaos SEED=1 SECONDS=300`."""

from __future__ import annotations

from pathlib import Path

from tests.faults import chaos, mutants
from tests.faults.chaos import run
from tests.faults.fork_server import MUTANT
from tests.faults.installation import ForkServer, is_alive
from tests.waiting import until


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


def test_every_mutant_changes_what_is_there(tmp_path: Path, fork_server: ForkServer) -> None:
    """One whose part of the service was reshaped would be a service without a mistake, and count as survived."""
    logs = {name: tmp_path / f"{name}.log" for name in mutants.MUTANTS}
    pids = [fork_server.bear("nobody", {MUTANT: name}, log) for name, log in logs.items()]
    until(lambda: not any(map(is_alive, pids)))
    assert {name: log.read_text() for name, log in logs.items()} == dict.fromkeys(logs, "")


def test_what_moves_on_is_waited_for_and_what_stands_still_is_not() -> None:
    """So a run ends, on a slow machine as well."""
    assert chaos.moves_on(iter([3, 2, 2, 1, 0]).__next__, seconds=3_600)
    assert not chaos.moves_on(lambda: 1, seconds=0)
