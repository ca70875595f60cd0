"""Questions inside a worker: answered together as alone, in turns with the engine, and each with its own end."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.contract.messages.inputs import InputPicture
from app.contract.messages.model_name import BUNDLED_SCORER
from app.contract.messages.questions import EmbedResult, EmbedSpec, Question, ScoreResult, ScoreSpec
from app.contract.messages.spec import JobSpec
from app.contract.redis.ownership import Claim
from tests.waiting import until
from worker import answers as answers_module
from worker.answers import Answers, Asked, Found
from worker.attempts import Answered, Attempts, NotBegun, Stop
from worker.engine.errors import NumericalError
from worker.engine.events import Failed, Stopped
from worker.errors import CannotStart
from worker.models import text_vectors
from worker.models.errors import ModelError
from worker.models.scorer import Scorer, load_scorer
from worker.scoring import SEATS, Scoring
from worker.served import card_of, scorer_alone, scorer_beside
from worker.settings import WorkerSettings
from worker.turns import OwnTurns, Turns

NOISE = np.random.default_rng(3)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(BUNDLED_SCORER)


def stored(pixels: np.ndarray) -> InputPicture:
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return InputPicture(sha256=sha256, width=pixels.shape[1], height=pixels.shape[0], content_type="image/png")


def asked(pictures: Sequence[np.ndarray], texts: Sequence[str]) -> Asked:
    images = tuple(map(stored, pictures))
    by_hash = {image.sha256: pixels for image, pixels in zip(images, pictures, strict=True)}
    return Asked(ScoreSpec(model="s", images=images, texts=tuple(texts)), by_hash)


def embedded(*texts: str) -> Asked:
    return Asked(EmbedSpec(model="s", input=texts))


def found(answer: Any) -> Found:
    assert isinstance(answer, Found), answer
    return answer


def some_pictures(count: int, *, channels: int = 3) -> list[np.ndarray]:
    return [NOISE.integers(0, 256, (40 + at, 30, channels), dtype=np.uint8) for at in range(count)]


def test_together_is_as_alone(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pictures and texts of one question are spread over several forwards."""
    monkeypatch.setattr(answers_module, "PICTURES_AT_ONCE", 3)
    monkeypatch.setattr(answers_module, "TEXTS_AT_ONCE", 2)
    shared = some_pictures(1)
    questions = [
        asked([*shared, *some_pictures(4)], ["a frog", "a panda", "a star"]),
        asked(shared, ["a panda"]),
        embedded("a star", "a red circle"),
    ]
    together = Answers(scorer, turn=nullcontext()).find(questions)
    for question, answer in zip(questions, together, strict=True):
        [alone] = Answers(scorer, turn=nullcontext()).find([question])
        ours, expected = found(answer).result, found(alone).result
        if isinstance(ours, ScoreResult) and isinstance(expected, ScoreResult):
            assert np.abs(np.array(ours.cosine) - np.array(expected.cosine)).max() <= 1e-5
            assert np.array(ours.probability).sum(axis=1) == pytest.approx(1, abs=1e-5)
        else:
            assert isinstance(ours, EmbedResult)
            vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in ours.vectors]
            assert [float(vector @ vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-5)
            assert ours.tokens == 9


def test_a_text_is_read_once(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    features = scorer.text_features

    def reading(texts: Sequence[str]) -> torch.Tensor:
        read.extend(texts)
        return features(texts)

    monkeypatch.setattr(scorer, "text_features", reading)
    monkeypatch.setattr(text_vectors, "REMEMBERED", 3)
    answers = Answers(scorer, turn=nullcontext())
    answers.find([embedded("a", "b"), embedded("b", "a")])
    answers.find([embedded("a", "c")])
    assert read == ["a", "b", "c"]
    # The one that was not asked for the longest goes first, and what is asked now is never among them.
    answers.find([embedded("d")])
    answers.find([embedded("a", "c", "d")])
    assert read == ["a", "b", "c", "d"]
    answers.find([embedded("e", "f", "g", "h"), embedded("b")])
    assert read == ["a", "b", "c", "d", "e", "f", "g", "h", "b"]


def test_a_text_that_is_cut_is_told(scorer: Scorer) -> None:
    [answer] = Answers(scorer, turn=nullcontext()).find([embedded("a frog", "red " * 40)])
    assert found(answer).warnings == ["Of text 1, the first 32 of 42 tokens were read."]
    result = found(answer).result
    assert isinstance(result, EmbedResult)
    assert result.tokens == 4 + 32


def test_what_is_transparent_shows_white(scorer: Scorer) -> None:
    glass, white = np.zeros((40, 40, 4), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    [answer] = Answers(scorer, turn=nullcontext()).find([asked([glass, white], ["a frog"])])
    result = found(answer).result
    assert isinstance(result, ScoreResult)
    assert result.cosine[0] == result.cosine[1]


def test_numbers_that_overflow_end_their_question_only(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    features = scorer.text_features

    def overflowing(texts: Sequence[str]) -> torch.Tensor:
        return features(texts) * torch.tensor([[float("nan") if text == "x" else 1.0] for text in texts])

    monkeypatch.setattr(scorer, "text_features", overflowing)
    broken, whole = Answers(scorer, turn=nullcontext()).find([embedded("x"), embedded("a frog")])
    assert isinstance(broken, NumericalError)
    assert isinstance(whole, Found)


def test_with_a_bias_each_text_stands_alone(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sigmoids, as SigLIP has them (Zhai et al. 2023)."""
    monkeypatch.setattr(scorer, "logit_bias", -10.0)
    [answer] = Answers(scorer, turn=nullcontext()).find([asked(some_pictures(1), ["a frog", "a panda"])])
    result = found(answer).result
    assert isinstance(result, ScoreResult)
    logits = scorer.logit_scale * np.array(result.cosine) - 10
    assert np.array(result.probability) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-4)
    assert result.logit_bias == -10.0


def test_turns_go_by_who_asked_first() -> None:
    """Who lets go and asks again, as the engine does, comes after who waits."""
    turns, order = Turns(), list[str]()
    engine_has_it, others_wait = threading.Event(), threading.Event()

    def engine() -> None:
        for step in range(2):
            with turns:
                order.append(f"step {step}")
                engine_has_it.set()
                others_wait.wait()

    def other() -> None:
        with turns:
            order.append("question")

    threads = [threading.Thread(target=engine), threading.Thread(target=other)]
    threads[0].start()
    engine_has_it.wait()
    threads[1].start()
    until(lambda: turns._next == 2)
    others_wait.set()
    for thread in threads:
        thread.join()
    assert order == ["step 0", "question", "step 1"]


class Road:
    """A Scoring with what is around it, played."""

    def __init__(self, answers: Any, turns: OwnTurns | None = None) -> None:
        self.attempts, self.said, self.counted = Attempts(), list[Any](), list[tuple[str, str]]()
        self.seconds = 0.0
        self.fetched: dict[str, np.ndarray] | None = {}
        self.scoring = Scoring(
            answers, self, self.attempts, self, model="s", turns=turns or OwnTurns(Turns()),  # type: ignore[arg-type]
            count=self.count,
        )  # fmt: skip

    def count(self, question: Question, outcome: str, seconds: float) -> None:
        self.counted.append((question.task, outcome))
        self.seconds += seconds

    def claim(self, question: Question, token: str) -> Claim:
        spec = JobSpec.model_construct(model="s", num_images=0)
        claim = Claim(f"job_{token}", token, spec, 1, 0, "", question=question)
        self.attempts.open(claim)
        self.scoring.begin(claim)
        return claim

    def bring(self, attempt: Any, go_on: Any, *, missed: Any) -> None:
        if self.fetched is not None:
            go_on(attempt, self.fetched)
        self.missed = missed

    def handle(self, event: Any) -> None:
        self.said.append(event)
        self.attempts.close(event.request_id)

    def refuse(self, claim: Claim, detail: str) -> None:
        self.said.append(NotBegun(claim.token, detail))  # type: ignore[arg-type]

    def run_until_quiet(self) -> None:
        stopped = threading.Event()
        thread = threading.Thread(target=self.scoring.run, args=[stopped])
        thread.start()
        until(lambda: not self.attempts.claims())
        stopped.set()
        thread.join()


def test_each_question_has_its_own_end(scorer: Scorer) -> None:
    """One that raises ends alone, one that was called off is not looked at, and room is made by what has ended."""

    class Breaking(Answers):
        def find(self, questions: Sequence[Asked]) -> Any:
            if any("break" in asked.question.words for asked in questions):
                raise RuntimeError("a mistake of ours")
            return super().find(questions)

    road = Road(Breaking(scorer, turn=nullcontext()))
    assert road.scoring.free_seats == SEATS
    road.claim(embedded("a frog").question, "a")
    road.claim(embedded("break").question, "b")
    road.claim(embedded("a panda").question, "c")
    road.attempts.stop("c", Stop.CANCELED)
    assert road.scoring.free_seats == SEATS - 3
    road.run_until_quiet()
    ends = {event.request_id: event for event in road.said}
    assert isinstance(ends["a"], Answered)
    assert isinstance(ends["b"], Failed)
    assert ends["b"].error.slug == "generation-failed"
    assert isinstance(ends["c"], Stopped)
    assert sorted(road.counted) == [("embed", "failed"), ("embed", "stopped"), ("embed", "succeeded")]
    assert road.scoring.free_seats == SEATS


def test_pictures_take_room_until_they_are_looked_at(scorer: Scorer) -> None:
    road = Road(Answers(scorer, turn=nullcontext()))
    question = asked(some_pictures(5), ["a frog"])
    road.fetched = None
    road.claim(question.question, "a")
    assert road.scoring.free_seats == SEATS - 5
    road.missed()
    assert road.counted == [("score", "failed")], "also one whose pictures could not be had is counted"
    road.attempts.close("a")
    road.fetched = dict(question.pictures)
    road.claim(question.question, "b")
    road.run_until_quiet()
    [answered] = road.said
    assert isinstance(answered, Answered)


def test_the_time_of_a_look_is_divided_among_who_asked(scorer: Scorer) -> None:
    """By their texts and pictures; also where the look failed. Who was called off before has taken nothing."""
    turns = OwnTurns(Turns())

    class Breaking(Answers):
        def find(self, questions: Sequence[Asked]) -> Any:
            found = super().find(questions)
            if any("broken" in asked.question.words for asked in questions):
                raise RuntimeError("a mistake of ours")
            return found

    road = Road(Breaking(scorer, turn=turns), turns)
    for token, words in (("a", ["a frog"]), ("b", ["a panda", "a toad", "a newt"]), ("c", ["broken"]), ("d", ["x"])):
        road.claim(embedded(*words).question, token)
    road.attempts.stop("d", Stop.CANCELED)
    road.run_until_quiet()
    took = {event.request_id: event.work.device_seconds for event in road.said}
    assert took["d"] == 0 < took["a"]
    assert took["b"] == pytest.approx(3 * took["a"])
    assert took["c"] == pytest.approx(took["a"]), "what failed has taken its part"
    assert sum(took.values()) == pytest.approx(turns.seconds) == pytest.approx(road.seconds)


def test_a_scorers_card_says_that_it_draws_nothing(scorer: Scorer) -> None:
    card = card_of(scorer, "starter-scorer")
    assert (card.tasks, card.draws, card.embedding_dimensions) == (("score", "embed"), False, 128)
    assert (card.does("score"), card.does("embed"), card.does("draw")) == (True, True, False)
    assert card.sha256 == scorer.sha256


def test_a_scorer_that_cannot_be_served_is_said_with_its_setting(tmp_path: Path) -> None:
    assert scorer_beside(WorkerSettings(scorer="off"), name="starter") is None
    with pytest.raises(CannotStart, match=r"DARKROOM_SCORER: .*Or set it to off"):
        scorer_beside(WorkerSettings(scorer=tmp_path), name="starter")
    with pytest.raises(CannotStart, match="DARKROOM_SCORER has the name of the model, starter-scorer"):
        scorer_beside(WorkerSettings(), name="starter-scorer")
    with pytest.raises(ModelError):
        scorer_alone(WorkerSettings(model=tmp_path), name="mine")
    alone = scorer_alone(WorkerSettings(model=BUNDLED_SCORER), name="mine")
    assert [card.name for card in alone.cards] == ["mine"]
    assert alone.answering
    assert alone.answering.scorer.sha256 == alone.cards[0].sha256
