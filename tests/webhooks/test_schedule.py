"""Numbers: when to try again, what a message is signed with, who may go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks import Webhook as Verifier

from app.contract.redis.webhook_secrets import new_secret
from app.webhooks.options import WebhookOptions
from app.webhooks.schedule import HOUR, LONGEST_RETRY_AFTER, TRIES, next_delay_ms, retry_after_seconds
from app.webhooks.sign import message_id, signed_headers
from app.webhooks.turns import FIRST_GUESS, LATEST, SOONEST, Turns

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_ten_tries_over_three_days(chance: float) -> None:
    delays = [next_delay_ms(number, chance=chance) for number in range(1, TRIES + 1)]
    assert len(delays) == 10
    assert delays[-1] is None
    known = [delay for delay in delays if delay is not None]
    assert known == sorted(known)
    assert 64 * HOUR < sum(known) / 1000 < 80 * HOUR


def test_retry_after_lengthens_and_is_bounded() -> None:
    assert next_delay_ms(1, retry_after=120, chance=0.5) == 120_000
    assert next_delay_ms(1, retry_after=1, chance=0.5) == 5_000
    assert next_delay_ms(1, retry_after=10**9, chance=0.5) == LONGEST_RETRY_AFTER * 1000
    assert next_delay_ms(TRIES, retry_after=120, chance=0.5) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 2026 12:01:00 GMT", 60.0),
        ("Thu, 01 Jan 2026 11:59:00 GMT", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("9" * 40, None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, now=NOON) == seconds


def test_both_secrets_of_a_rotation_verify() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    now = datetime.now(UTC)
    headers = signed_headers("job_x/job.succeeded/1", '{"a":1}', [new, old], at=now)
    assert Verifier(new).verify('{"a":1}', headers) == {"a": 1}
    assert Verifier(old).verify('{"a":1}', headers) == {"a": 1}
    for secret, body in ((other, '{"a":1}'), (new, '{"a":2}')):
        with pytest.raises(Exception, match="No matching signature"):
            Verifier(secret).verify(body, headers)


def test_a_moment_outside_utc_is_refused() -> None:
    for at in (NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=2)))):
        with pytest.raises(ValueError, match="UTC"):
            signed_headers("e", "{}", [new_secret()], at=at)


def test_ids_are_stable_and_tell_facts_apart() -> None:
    entries = ["job_a/job.started/1", "job_a/job.started/2", "job_a/job.failed/1", "job_b/job.started/1"]
    assert len({message_id(entry) for entry in entries}) == len(entries)
    assert message_id(entries[0]) == message_id(entries[0])


def test_secrets_are_standard_base64_and_never_alike() -> None:
    made = {new_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(secret.startswith("whsec_") and not set("-_") & set(secret[6:]) for secret in made)
    assert any(set("+/") & set(secret[6:]) for secret in made)


def test_a_full_host_is_asked_again_at_its_own_pace() -> None:
    turns = Turns(2)
    assert [turns.enter("slow", 10.0) for _ in range(2)] == [0.0, 0.0]
    waits = [turns.enter("slow", 10.0) for _ in range(3)]
    assert waits == pytest.approx([SOONEST, SOONEST + FIRST_GUESS / 2, SOONEST + FIRST_GUESS])
    assert turns.enter("fast", 10.0) == 0.0
    turns.leave("slow", 25.0, took=15.0)
    assert turns.enter("slow", 25.0) == 0.0
    waits = [turns.enter("slow", 25.0) for _ in range(100)]
    pace = 0.8 * FIRST_GUESS + 0.2 * 15.0
    assert waits[:2] == pytest.approx([SOONEST, SOONEST + pace / 2])
    assert waits[-1] == LATEST


def test_a_host_nobody_waits_for_is_forgotten() -> None:
    turns = Turns(1)
    for now in range(1_000):
        assert turns.enter(f"host-{now}", float(now)) == 0.0
        turns.leave(f"host-{now}", float(now), took=0.1)
    assert turns._lines == {}


@pytest.mark.parametrize("wrong", [{"allow_ports": (0,)}, {"allow_ports": (70_000,)}, {"grace_seconds": -1.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"port|grace"):
        WebhookOptions(**wrong)  # type: ignore[arg-type]
