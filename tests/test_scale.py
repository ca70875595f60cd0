"""The benchmark of a crowd on one Redis: it goes through, and its figures add up. How fast anything was is no business
of a test's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import Figures
from benchmarks.scale import __main__ as scale
from benchmarks.scale.fairness import fairness, jain
from benchmarks.scale.versions import ROOT, NoSuchVersion, lay_out, named


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    file = tmp_path_factory.mktemp("scale") / "scale.json"
    command = [sys.executable, "-m", "benchmarks.scale", "--quick", "--alone", "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return Figures.read(file)


def test_it_fills_its_tables(found: Figures) -> None:
    assert {name: table.columns for name, table in found.tables.items()} == scale.TABLES


def test_every_job_is_counted_once_in_every_state(found: Figures) -> None:
    calls = {each["state"]: each["calls"] for each in found.tables["states"].records()}
    [memory] = found.tables["memory"].records()
    jobs, workers = memory["jobs"], scale.QUICK["workers"]
    assert jobs == workers * 16
    assert (calls["submit"], calls["claim"], calls["progress"], calls["finish"]) == (jobs, jobs, jobs, jobs)
    # One of each worker, for all its jobs; and one more if Redis had to be told the script first.
    assert calls["beat"] - workers in (0, 1)
    assert memory["queued"] < memory["running"]


def test_a_job_in_flow_is_submitted_claimed_and_finished(found: Figures) -> None:
    for flow in found.tables["flow"].records():
        assert flow["jobs"] > 0
        assert flow["scripts"] is None or flow["scripts"] >= 3
        assert flow["p50_ms"] <= flow["p99_ms"]


def test_the_dead_workers_jobs_are_all_queued_again(found: Figures) -> None:
    [reaper] = found.tables["reaper"].records()
    assert reaper["jobs"] == scale.QUICK["workers"] * 16
    assert reaper["rounds"] == 1


def test_turns_are_fairer_than_those_of_a_line(found: Figures) -> None:
    [fair] = found.tables["fairness"].records(order="as claimed")
    [line] = found.tables["fairness"].records(order="first come, first served")
    assert max(fair["ahead"], fair["behind"]) <= 2
    assert fair["first_turn"] == 1
    assert line["jain"] < fair["jain"]


def test_measures_of_fairness_are_what_the_papers_say() -> None:
    assert jain([1, 1, 1, 1]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
    flood = [("big", 1.0)] * 4
    others = [("small", 1.0), ("smaller", 1.0)]
    line, turns = fairness(flood + others), fairness([flood[0], *others, *flood[1:]])
    # Of six jobs, five were claimed: one each for two, and what they leave for the third.
    assert turns == type(turns)(jain=1.0, ahead=0.0, behind=0.0, first_turn=1.0)
    assert (line.ahead, line.behind, line.first_turn) == (1.0, 1.0, 2.0)
    assert line.jain == pytest.approx((4 / 3 + 1) ** 2 / (3 * (16 / 9 + 1)))


def test_an_older_version_is_laid_out_beside_the_players_of_this_one(tmp_path: Path) -> None:
    revision = "HEAD"
    try:
        name = named(revision)
    except NoSuchVersion as error:
        pytest.skip(str(error))
    folder = lay_out(revision, tmp_path)
    assert len(name) >= 7
    assert (folder / "app" / "contract" / "redis" / "scripts" / "claim.lua").is_file()
    asked = "import app, worker, benchmarks.scale.versions as v; print(app.__file__, worker.__file__, v.__file__)"
    environment = {"PYTHONPATH": str(folder)}
    told = subprocess.run([sys.executable, "-c", asked], cwd=folder, env=environment, capture_output=True, text=True)
    assert [Path(each).is_relative_to(folder) for each in told.stdout.split()] == [True] * 3, told.stderr


def test_a_version_that_there_is_not_is_named() -> None:
    with pytest.raises(NoSuchVersion, match="git"):
        named("no-such-revision")
