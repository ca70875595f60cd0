"""`darkroom score` and `darkroom embed`: files and texts go in, the API's JSON or a table comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.cli import scores
from app.contract.messages.card import ModelCard
from app.contract.messages.questions import EmbedSpec, ScoreSpec
from tests.app.scorer import ScriptedScorer, scorer_card_of
from tests.cli.conftest import Run, picture
from tests.waiting import until


@pytest.fixture
def scorer(worker: Any, redis_client: redis.Redis, card: ModelCard) -> Iterator[ScriptedScorer]:
    with ScriptedScorer(redis_client, scorer_card_of(card)) as scorer:
        yield scorer


def test_a_pipe_gets_what_the_api_answers(run: Run, scorer: ScriptedScorer) -> None:
    Path("a.png").write_bytes(picture("red"))
    Path("b.jpg").write_bytes(picture("blue", kind="jpeg"))
    result = run("score", "a.png", "a frog", "a panda", "--image", "b.jpg", "--template", "a photo of {}")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["texts"] == ["a photo of a frog", "a photo of a panda"]
    assert found["cosine"] == [[0.5, 0.4]] * 2
    assert result.stderr == "darkroom score: cut\n"
    question = scorer.claims[0].question
    assert isinstance(question, ScoreSpec)
    assert [each.content_type for each in question.images] == ["image/png", "image/jpeg"]
    result = run("embed", "a frog", "--image", "a.png")
    vectors = [each["embedding"] for each in json.loads(result.stdout)["data"]]
    assert vectors == [pytest.approx([0.6, 0.8])] * 2
    question = scorer.claims[1].question
    assert isinstance(question, EmbedSpec)
    assert question.words == ("a frog",)


def test_a_terminal_gets_a_table(run: Run, scorer: ScriptedScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "is_terminal", lambda: True)
    Path("a.png").write_bytes(picture("red"))
    lines = run("score", "a.png", "a frog", "a panda").stdout.splitlines()
    assert lines[0].split() == ["picture", "probability", "cosine", "text"]
    assert [line.split()[:3] for line in lines[1:]] == [["a.png", "90.0%", "0.500"], ["a.png", "10.0%", "0.400"]]
    lines = run("embed", "a frog", "a panda").stdout.splitlines()
    assert "1.000" in lines[2]
    assert "0.600, 0.800" in lines[1]
    listed = run("jobs", "list").stdout
    assert "score: a frog, a panda" in listed
    assert "embed: a frog, a panda" in listed
    models = run("models").stdout
    assert "score, embed" in models


def test_what_is_wrong_is_one_sentence(run: Run, scorer: ScriptedScorer) -> None:
    Path("a.png").write_bytes(picture("red"))
    Path("no.png").write_bytes(b"no picture")
    for arguments, said in (
        (("score", "no.png", "a frog"), "no.png is no PNG, JPEG or WebP picture"),
        (("score", "nowhere.png", "a frog"), "nowhere.png"),
        (("score", "a.png", "a frog", "--template", "a photo"), "template must have the place {}"),
        (("score", "a.png", "a frog", "--model", "starter"), "model does not score: starter does text-to-image"),
        (("score", "-", "a frog", "--image", "-"), "only one picture can come from stdin"),
        (("embed",), "say at least one text, or --image FILE"),
        (("embed", "a frog", "--model", "starter"), "model does not embed"),
        (("generate", "a frog", "--model", "tiny-scorer"), "draws nothing: tiny-scorer does score, embed"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, (arguments, result.stderr)
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_what_takes_too_long_leads_to_its_job(
    run: Run, scorer: ScriptedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer.may_answer.clear()
    monkeypatch.setattr(scores, "HURRY", {"Prefer": "wait=0"})
    Path("a.png").write_bytes(picture("red"))
    result = run("score", "a.png", "a frog")
    assert result.exit_code == 3
    until(lambda: scorer.claims)
    assert f"`darkroom jobs show {scorer.claims[0].id}`" in result.stderr


def test_a_picture_among_the_texts_is_told(run: Run, scorer: ScriptedScorer) -> None:
    """`darkroom score *.png "a frog"`, as the shell writes it."""
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(picture("red"))
    refused = run("score", "a.png", "b.png", "a frog")
    assert (refused.exit_code, scorer.claims) == (2, [])
    assert refused.stderr == "darkroom score: b.png is a file: name every picture but the first with --image\n"
    assert run("score", "a.png", "c.png").exit_code == 0
