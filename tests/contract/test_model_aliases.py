"""Further names of models in Redis: none hides a model, none leads to another, and models go before them."""

from __future__ import annotations

import pytest
import redis

from app.contract.messages.audit import Operator
from app.contract.messages.card import ModelCard
from app.contract.redis.models import Aliasing, Models
from app.contract.redis.operations import Operations
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore
from app.jobs.aliases import Aliases
from tests.forgetful import Losses

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def two_models(redis_client: redis.Redis, card: ModelCard) -> None:
    for name in ("a", "b"):
        Ownership(redis_client).announce(card.model_copy(update={"name": name}), "w1")


async def test_a_name_is_given_changed_and_taken_back(store: JobStore) -> None:
    models = store.models
    assert await models.set_alias("dall-e-3", "a") == Aliasing("set", "")
    assert await models.set_alias("dall-e-3", "a") == Aliasing("set", "a"), "said again"
    assert await models.set_alias("dall-e-3", "b") == Aliasing("set", "a")
    assert await models.set_alias("Stability-AI/sdxl", "b") == Aliasing("set", "")
    assert await models.aliases() == {"Stability-AI/sdxl": "b", "dall-e-3": "b"}
    assert await models.remove_alias("dall-e-3") == Aliasing("removed", "b")
    assert await models.remove_alias("dall-e-3") == Aliasing("missing", "")
    assert await models.aliases() == {"Stability-AI/sdxl": "b"}


async def test_what_would_hide_a_model_or_lead_round_is_refused(store: JobStore, redis_client: redis.Redis) -> None:
    models, ownership = store.models, Ownership(redis_client)
    await models.set_alias("dall-e-3", "a")
    assert await models.set_alias("b", "a") == Aliasing("is-model", "")
    ownership.leave("b", "w1")
    assert await models.set_alias("b", "a") == Aliasing("is-model", ""), "it is away and may come back"
    assert await models.set_alias("b", "b") == Aliasing("is-model", "")
    assert await models.set_alias("c", "nowhere") == Aliasing("no-model", "")
    assert await models.set_alias("c", "c") == Aliasing("no-model", "")
    assert await models.set_alias("c", "dall-e-3") == Aliasing("is-alias", "a")
    assert await models.aliases() == {"dall-e-3": "a"}


async def test_a_name_outlives_its_model_and_nothing_is_put_in_its_way(
    store: JobStore, redis_client: redis.Redis, card: ModelCard
) -> None:
    models, ownership = store.models, Ownership(redis_client)
    await models.set_alias("dall-e-3", "a")
    ownership.leave("a", "w1")
    assert await models.forget("a") == ("forgotten", 0)
    assert await models.aliases() == {"dall-e-3": "a"}
    assert await models.set_alias("a", "b") == Aliasing("is-target", "dall-e-3"), "it would lead on from there"
    ownership.announce(card.model_copy(update={"name": "dall-e-3"}), "w2")
    assert await models.set_alias("dall-e-3", "b") == Aliasing("is-model", "")
    assert await models.remove_alias("dall-e-3") == Aliasing("removed", "a"), "also while a model goes before it"


async def test_taking_back_is_told_once_though_the_answer_was_lost(store: JobStore, redis_client: redis.Redis) -> None:
    """redis-py says a script again whose answer did not come."""
    models = store.models
    await models.set_alias("dall-e-3", "a")
    script = models._scripts["model_alias"]

    async def twice(args: list[str]) -> object:
        await script(args=args)
        return await script(args=args)

    models._scripts["model_alias"] = twice  # type: ignore[assignment]
    assert await models.remove_alias("dall-e-3") == Aliasing("removed", "a")


async def test_who_dies_with_a_change_has_its_line_all_the_same(store: JobStore, valkey_url: str) -> None:
    """Of the change and its line in the audit there is not one without the other."""
    losses = Losses(breaks=True)
    async with losses.async_client(valkey_url) as dies:
        aliases = Aliases(Models(dies))
        for change in (
            lambda: aliases.give("dall-e-3", "a", Operator()),
            lambda: aliases.take_back("dall-e-3", Operator()),
        ):
            losses.left = 1
            with pytest.raises(redis.ConnectionError):
                await change()
        assert await store.models.aliases() == {}
        assert await aliases.give("dall-e-3", "b", Operator()) == ""
        assert await aliases.give("dall-e-3", "b", Operator()) == "b", "said again, nothing changes"
        lines = await Operations(dies).audit(limit=9)
    assert [each.change.outcome for each in reversed(lines)] == ["means a", "means a no more", "means b"]
