"""Places in the events of many jobs as one id: it brings back exactly what was written, and nothing from garbage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from app.jobs.event_ids import read_places, write_places

stream_ids = some.builds("{}-{}".format, some.integers(0, 10**15 - 1), some.integers(0, 10**9 - 1))
job_ids = some.text("0123456789abcdef", min_size=24, max_size=24).map("job_{}".format)
all_places = some.dictionaries(job_ids, some.none() | stream_ids, max_size=8)
END = f"{10**15 - 1}-{10**9 - 1}"


@given(all_places, some.randoms())
def test_what_is_written_is_read(places: dict[str, str | None], chance: object) -> None:
    shuffled = sorted(places, key=lambda _: chance.random())  # type: ignore[attr-defined]
    assert read_places(write_places(places), dict.fromkeys(shuffled, END)) == places


@given(all_places, some.text() | some.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
def test_garbage_is_the_beginning(places: dict[str, str | None], garbage: str) -> None:
    last = dict.fromkeys(places, "5-5")
    assert read_places(garbage, last) == dict.fromkeys(places)


@given(all_places, some.data())
def test_an_id_that_was_cut_or_changed_breaks_nothing(places: dict[str, str | None], data: some.DataObject) -> None:
    written = write_places(places)
    at = data.draw(some.integers(0, len(written) - 1))
    spoilt = written[:at] + data.draw(some.sampled_from(["", "A", "_", "~", "\u00fc"])) + written[at + 1 :]
    found = read_places(spoilt, dict.fromkeys(places, "1000-3"))
    assert found.keys() == places.keys()
    assert all(place is None or place.partition("-")[0].isdecimal() for place in found.values())


def test_a_place_behind_the_end_is_the_beginning() -> None:
    written = write_places({"a": "7-1", "b": "7-0"})
    assert read_places(written, {"a": "7-0", "b": "7-0"}) == {"a": None, "b": "7-0"}


def test_the_same_time_in_two_streams_is_two_places() -> None:
    places = {"a": "1763894400000-0", "b": "1763894400000-0"}
    assert write_places(places) != write_places(places | {"b": "1763894399999-9"})
