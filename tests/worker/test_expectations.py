"""How well pictures fit what their requests expect: by the scorer's own cosines, for several requests at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.contract.messages.model_name import BUNDLED_SCORER
from tests.engine.driving import wish
from tests.models.test_scorer import painted
from tests.models.tiny_scorers import siglip_folder
from worker.engine.request import Request
from worker.expectations import Expectations
from worker.models.scorer import Scorer, load_scorer


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(BUNDLED_SCORER)


def asked(*expect: str, **changes: object) -> Request:
    return wish(expect=expect, best_of=2, **changes)


def shown(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures))


def test_each_picture_is_held_against_its_own_words(scorer: Scorer) -> None:
    red, yellow = painted("red", "blue"), painted("yellow", "purple")
    words = ["a red circle", "a cat", "a yellow circle"]
    rows = Expectations(scorer)(shown(red, yellow, yellow), [asked(text) for text in words])
    cosines = scorer.image_features([red, yellow]) @ scorer.text_features(words).T
    assert rows[:, 0].tolist() == pytest.approx([float(cosines[k]) for k in ((0, 0), (1, 1), (1, 2))], abs=1e-6)
    assert rows[0, 1] > 0.99
    assert rows[1, 1] < 0.5 < rows[2, 1]


def test_several_words_are_all_expected(scorer: Scorer) -> None:
    """The score is their mean, the probability that of the worst: among the text and none at all."""
    red = painted("red", "blue")
    words = ["a red circle", "a blue background", "a cat"]
    [row] = Expectations(scorer)(shown(red), [asked(*words)])
    cosines = (scorer.image_features([red]) @ scorer.text_features([*words, ""]).T)[0]
    assert float(row[0]) == pytest.approx(float(cosines[:3].mean()), abs=1e-6)
    worst = torch.stack([cosines[:3].min(), cosines[3]]).mul(scorer.logit_scale).softmax(0)[0]
    assert float(row[1]) == pytest.approx(float(worst), abs=1e-4)


def test_without_expect_the_prompt_is_expected_and_not_its_syntax(scorer: Scorer) -> None:
    judge, red = Expectations(scorer), shown(painted("red", "blue"))
    plain, weighted = wish(prompt="a red circle"), wish(prompt="a (red:1.2) circle", prompt_syntax="a1111")
    assert torch.allclose(judge(red, [plain]), judge(red, [weighted]))
    assert judge.describe(weighted)["texts"] == ["a red circle"]
    assert judge.describe(plain)["scorer_sha256"] == scorer.sha256


def test_siglips_probability_is_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    siglip = load_scorer(siglip_folder(tmp_path_factory.mktemp("scorers") / "siglip"))
    red = painted("red", "blue")
    [row] = Expectations(siglip)(shown(red), [asked("a red circle")])
    cosine = siglip.image_features([red]) @ siglip.text_features(["a red circle"]).T
    expected = torch.sigmoid(cosine * siglip.logit_scale + siglip.logit_bias)
    assert float(row[1]) == pytest.approx(float(expected), abs=1e-5)
