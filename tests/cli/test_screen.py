"""What a user sees in a terminal while jobs are drawn, read through an emulator: nothing that stood there is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from app.cli.screen import _label, standing
from tests.app.conftest import Running, ScriptedWorker
from tests.cli.conftest import Hand, environment_of
from tests.cli.terminal import STOOD, in_a_terminal
from tests.system.conftest import COMMAND

PROMPTS = ("a frog", "a lion", "fail this", "a panda", "a fox", "a bear")
DRAWN = [prompt for prompt in PROMPTS if not prompt.startswith("fail")]


def results(lines: list[str], columns: int) -> list[str]:
    """The lines from the command's, as it wrote them: what the terminal broke is put together again."""
    whole: list[str] = []
    broken = False
    for line in lines[len(STOOD) :]:
        whole = [*whole[:-1], whole[-1] + line] if broken else [*whole, line]
        broken = len(line) == columns
    return whole


@pytest.mark.parametrize(
    ("rows", "columns", "environment"),
    [
        (24, 80, {}),
        (8, 50, {}),
        (24, 80, {"NO_COLOR": "1"}),
        (24, 80, {"TERM": "dumb"}),
    ],
    ids=["usual", "small", "no colour", "dumb"],
)
def test_every_line_stays(
    gateway: Running, hand: Hand, tmp_path: Path, rows: int, columns: int, environment: dict[str, str]
) -> None:
    requests = (*PROMPTS, "wait for me", "-o", "{prompt}.png", "--seed", "7")
    with in_a_terminal(gateway, "generate", *requests, cwd=tmp_path, rows=rows, columns=columns, **environment) as term:
        term.until("a-bear.png")
        if "TERM" not in environment:
            term.until(" all ", "wait for me  running")
            term.until("6/7", "wait for me")
            assert "wait for me" in term.screen[-1], "the bars stand below the results"
        hand.go.set()
        assert term.end() == 1
    assert term.lines[: len(STOOD)] == STOOD
    said = results(term.lines, columns)
    assert sorted(line for line in said if not line.startswith("darkroom")) == sorted(
        f"{prompt.replace(' ', '-')}.png  seed 7  128x128" for prompt in (*DRAWN, "wait for me")
    )
    told = [line for line in said if line != "darkroom generate: warning: cut"]
    assert len(said) == len(told) + len(DRAWN) + 1, "each picture's warning"
    assert told[-1].startswith("wait-for-me.png"), "in the order in which they came"
    [failure] = [line for line in told if line.startswith("darkroom")]
    assert failure.endswith("failed: Values overflowed.")
    if "TERM" in environment:
        assert b"\x1b" not in term.raw
    if "NO_COLOR" in environment:
        assert not re.search(rb"\x1b\[[\d;]*3\dm", term.raw)


def test_ctrl_c_is_answered_where_it_was_typed(gateway: Running, hand: Hand, tmp_path: Path) -> None:
    with in_a_terminal(gateway, "generate", "a frog", "wait", "wait 2", "-o", "{prompt}.png", cwd=tmp_path) as term:
        term.until("a-frog.png")
        term.until("wait 2  running")
        term.type("\x03")
        assert term.end() == 130
    assert term.lines[: len(STOOD)] == STOOD
    [drawn, *_, last] = term.lines[len(STOOD) :]
    assert drawn.startswith("a-frog.png")
    assert last == "darkroom generate: canceled 2 jobs"


def test_what_the_shell_says_while_it_is_stopped_stays(gateway: Running, hand: Hand, tmp_path: Path) -> None:
    with in_a_terminal(gateway, "generate", "wait", "wait 2", "-o", "{prompt}.png", cwd=tmp_path) as term:
        term.until("wait 2  running")
        term.type("\x1a")
        _, status = os.waitpid(term.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        term.look()
        assert term.lines[: len(STOOD)] == STOOD
        shell = ["[1]+  Stopped      darkroom generate", "$ ls", "a.png  b.png", "$ fg"]
        term.hear("".join(f"{line}\r\n" for line in shell).encode())
        term.process.send_signal(signal.SIGCONT)
        term.until("wait 2  running")
        hand.go.set()
        assert term.end() == 0
    kept = [line for line in term.lines if not line.startswith("^Z")]
    assert kept[len(STOOD) : len(STOOD) + len(shell)] == shell


def test_watching_leaves_what_stood_there(gateway: Running, hand: Hand, tmp_path: Path) -> None:
    with in_a_terminal(gateway, "jobs", "watch", cwd=tmp_path) as term:
        assert term.end() == 0
    assert term.lines == [*STOOD, "no job is queued or running"]
    jobs = [gateway.client.post("/v1/jobs", json={"prompt": prompt}).json()["id"] for prompt in ("wait 1", "wait 2")]
    with in_a_terminal(gateway, "jobs", "watch", *jobs, cwd=tmp_path) as term:
        term.until("wait 2  running")
        hand.go.set()
        assert term.end() == 0
    assert term.lines[: len(STOOD)] == STOOD
    assert sorted(term.lines[len(STOOD) :]) == sorted(f"{job}  succeeded  wait {n}" for n, job in enumerate(jobs, 1))


def test_no_bars_into_a_pipe_whatever_is_forced(gateway: Running, hand: Hand, tmp_path: Path) -> None:
    """Its reader, such as `| tee`, may write to the same terminal at any time."""
    environment = environment_of(gateway) | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [COMMAND, "generate", "a frog", "a lion", "-o", "{prompt}.png", "--seed", "7"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == [f"a-{animal}.png  seed 7  128x128" for animal in ("frog", "lion")]
    assert "\x1b" not in done.stderr


def test_tables_at_fifty_columns(gateway: Running, worker: ScriptedWorker, tmp_path: Path) -> None:
    job = gateway.client.post("/v1/jobs", json={"prompt": "a frog"}).json()["id"]
    with in_a_terminal(gateway, "models", cwd=tmp_path, columns=50) as term:
        assert term.end() == 0
    said = term.lines[len(STOOD) :]
    assert said[0] == "starter (default)"
    facts = dict(re.fullmatch(r"  (\w[\w ]*?)  +(\S.*)", line).groups() for line in said[1:])
    assert facts["size"] == "128x128"
    assert facts["scheduler"] == "dpmpp_2m"
    with in_a_terminal(gateway, "jobs", "list", cwd=tmp_path, columns=50) as term:
        assert term.end() == 0
    heads, facts = (line.split() for line in term.lines[len(STOOD) :])
    assert (heads[0], heads[-1]) == ("job", "prompt")
    assert job.startswith(facts[0])
    assert facts[-2:] == ["a", "frog"]


def test_the_stage_of_a_job_is_said_beside_its_step() -> None:
    """Also of one that has no prompt: what it is drawn from stands in its place."""
    progress = {"step": 3, "steps": 20, "stage": "prior"}
    points = {"of": {"sha256": "a" * 64}, "text": None}
    job = {"status": "running", "progress": progress, "input": {"prompt": "", "image_embedding": points}}
    assert standing(job) == "running, step 3 of 20, prior"
    assert _label(job) == "image embedding: of  running, prior"
    assert standing(job | {"progress": progress | {"stage": None}}) == "running, step 3 of 20"
