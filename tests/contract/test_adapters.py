"""LoRAs of a request, held against the model's card: unknown names are told with the nearest."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.inputs import Lora
from app.contract.messages.params import JobRequest, ParamsRejected, resolve

REFUSED: list[tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = [
    ([{"name": "Inkk"}], [("/loras/0/name", "unknown", "is unknown; did you mean Ink?")]),
    ([{"name": "ink"}], [("/loras/0/name", "unknown", "is unknown; did you mean Ink?")]),
    ([{"name": "zzz"}], [("/loras/0/name", "unknown", "is unknown; LoRAs of this model: Ink, film grain")]),
]


@pytest.fixture
def with_loras(card: ModelCard) -> ModelCard:
    return card.model_copy(
        update={"takes": ("loras",), "loras": (Adapter(name="Ink", words=("ink style",)), Adapter(name="film grain"))}
    )


@pytest.mark.parametrize(("asked", "errors"), REFUSED)
def test_what_the_card_does_not_offer(
    asked: list[dict[str, Any]], errors: list[tuple[str, str, str]], with_loras: ModelCard
) -> None:
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a red circle", loras=asked), with_loras)
    assert [(each.pointer, each.code, each.detail) for each in refused.value.errors] == errors


def test_what_it_offers_is_stored_with_its_weight(with_loras: ModelCard) -> None:
    spec = resolve(JobRequest(prompt="a", loras=[{"name": "Ink", "weight": -0.5}, {"name": "film grain"}]), with_loras)
    assert spec.loras == (Lora(name="Ink", weight=-0.5), Lora(name="film grain", weight=1.0))


def test_a_list_of_many_is_not_repeated_whole(card: ModelCard) -> None:
    many = tuple(Adapter(name=f"style {k}") for k in range(12))
    with pytest.raises(ParamsRejected, match=r"style 11$"):
        resolve(
            JobRequest(prompt="a", loras=[{"name": "zzz"}]),
            card.model_copy(update={"takes": ("loras",), "loras": many}),
        )
