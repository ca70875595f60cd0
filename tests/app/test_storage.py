"""The gateway's links and streams: what they open, for how long, and everything they refuse."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.objects.names import (
    CONTENT_TYPES,
    EXTENSIONS,
    ImageKey,
    image_key,
    job_prefix,
    parse_key,
    require_prefix,
    token_prefix,
)
from app.contract.objects.store import StoreOptions
from app.pictures.errors import (
    PictureMissing,
    RangeNotSatisfiable,
    SignatureExpired,
    SignatureInvalid,
    StoreDenied,
    StoreUnavailable,
)
from app.pictures.store import PictureStore
from app.pictures.stream import CHUNK
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from tests.storage_servers import S3Server

pytestmark = pytest.mark.anyio

JOB, TOKEN = "job_" + "1a" * 12, "0f" * 16
KEY = image_key(JOB, TOKEN, 3, "jpeg")
SIGNING_KEY = bytes(range(32))
NOW = 1_800_000_000.0
DATA = os.urandom(CHUNK * 2 + 17)

job_ids = st.from_regex(r"job_[0-9a-z]{24}", fullmatch=True)
tokens = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)


@given(job_ids, tokens, st.integers(0, 999), st.sampled_from(sorted(CONTENT_TYPES)))
def test_a_key_and_its_parts_say_the_same(job_id: str, token: str, index: int, output_format: str):
    key = image_key(job_id, token, index, output_format)
    assert parse_key(key) == ImageKey(job_id, token, index, EXTENSIONS[output_format])
    assert key.startswith(token_prefix(job_id, token))
    assert token_prefix(job_id, token).startswith(job_prefix(job_id))


@given(
    st.text(max_size=90)
    | st.from_regex(r"images/(job_[0-9a-z]{2,26}|\.\.)/[0-9a-f.%/]{2,33}/\d{1,4}(-previews|-trajectory)?\.\w{2,11}")
)
def test_any_text_is_a_key_we_would_make_or_refused(text: str):
    try:
        parts = parse_key(text)
    except ValueError:
        return
    assert f"images/{parts.job_id}/{parts.token}/{parts.index}{parts.part}.{parts.extension}" == text
    assert parts.content_type


@pytest.mark.parametrize(
    ("job_id", "token", "index", "output_format"),
    [
        ("job_../../../../etc/passwd0", TOKEN, 0, "png"),
        ("job_" + "1A" * 12, TOKEN, 0, "png"),
        (JOB + "\n", TOKEN, 0, "png"),
        ("", TOKEN, 0, "png"),
        (JOB, TOKEN[:-1], 0, "png"),
        (JOB, TOKEN.upper(), 0, "png"),
        (JOB, "*" * 32, 0, "png"),
        (JOB, TOKEN, -1, "png"),
        (JOB, TOKEN, 1000, "png"),
        (JOB, TOKEN, 0, "gif"),
        (JOB, TOKEN, 0, "../png"),
    ],
)
def test_no_key_is_made_of_other_parts(job_id: str, token: str, index: int, output_format: str):
    with pytest.raises(ValueError, match=r"not a picture's key|unknown output format"):
        image_key(job_id, token, index, output_format)


@pytest.mark.parametrize("prefix", ["", "/", "images/", f"images/{JOB}", f"images//{JOB}/", KEY, f"images/{JOB}/../"])
def test_nothing_wider_than_a_job_is_a_prefix(prefix: str):
    with pytest.raises(ValueError, match="not a prefix"):
        require_prefix(prefix)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that holds one picture, and a secret beside it that it must not serve."""
    (tmp_path / "secret").write_bytes(b"the secret")
    path = tmp_path / "store" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    os.utime(path, (NOW, NOW))
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> PictureStore:
    return PictureStore.from_url(root.as_uri(), signing_key=SIGNING_KEY)


async def read(store: PictureStore, key: str = KEY, byte_range: str | None = None) -> bytes:
    picture = await store.open(key, byte_range=byte_range)
    data = b"".join([chunk async for chunk in picture.chunks])
    assert len(data) == picture.length
    return data


async def test_a_picture_streams_whole_with_all_a_header_needs(store: PictureStore):
    picture = await store.open(KEY)
    assert [len(chunk) async for chunk in picture.chunks] == [CHUNK, CHUNK, 17]
    assert (picture.size, picture.start, picture.end, picture.partial) == (len(DATA), 0, len(DATA), False)
    assert picture.content_type == "image/jpeg"
    assert picture.file_name == f"{JOB}-3.jpg"
    assert picture.last_modified == datetime.fromtimestamp(NOW, UTC)
    assert await read(store) == DATA


async def test_the_etag_is_strong_and_changes_with_the_file(store: PictureStore, root: Path):
    first, again = await store.open(KEY), await store.open(KEY)
    (root / KEY).write_bytes(DATA[::-1])
    other = await store.open(KEY)
    for picture in (first, again, other):
        picture.close()
    assert first.etag == again.etag != other.etag
    assert first.etag.startswith('"')


SIZE = len(DATA)


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("BYTES=10-19", 10, 20),
        (f"bytes=5-{SIZE + 100}", 5, SIZE),
        ("bytes=100-", 100, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=9-3", 0, SIZE),
        ("bytes=-", 0, SIZE),
        ("bytes=0-1,4-5", 0, SIZE),
        ("bytes=a-b", 0, SIZE),
        ("bytes=\u0661-\u0662", 0, SIZE),
        ("lines=0-1", 0, SIZE),
        ("", 0, SIZE),
        ("bytes=" + "9" * 5000 + "-", 0, SIZE),
    ],
)
async def test_ranges(store: PictureStore, header: str, start: int, end: int):
    picture = await store.open(KEY, byte_range=header)
    picture.close()
    assert (picture.start, picture.end, picture.partial) == (start, end, (start, end) != (0, SIZE))
    assert picture.content_range == f"bytes {start}-{end - 1}/{SIZE}"
    assert await read(store, byte_range=header) == DATA[start:end]


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=999999999-1000000000", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused_with_the_size(store: PictureStore, header: str):
    with pytest.raises(RangeNotSatisfiable) as refused:
        await store.open(KEY, byte_range=header)
    assert refused.value.size == SIZE


async def test_a_stream_left_halfway_closes_its_file(store: PictureStore, root: Path):
    picture = await store.open(KEY)
    assert str(root / KEY) in opened_files()
    async for _ in picture.chunks:
        break
    await picture.chunks.aclose()  # type: ignore[attr-defined]
    never_read = await store.open(KEY)
    never_read.close()
    assert str(root / KEY) not in opened_files()


def opened_files() -> set[str]:
    return {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}


async def test_a_picture_cut_short_is_an_error_and_not_a_short_answer(store: PictureStore, root: Path):
    picture = await store.open(KEY)
    os.truncate(root / KEY, 100)
    with pytest.raises(StoreUnavailable, match="became shorter"):
        _ = [chunk async for chunk in picture.chunks]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "secret",
        "../secret",
        f"images/{JOB}/{TOKEN}/../../../../secret",
        f"images/{JOB}/{TOKEN}/%2e%2e/secret",
        f"images/{JOB}/{TOKEN}",
        f"images/{JOB}/{TOKEN}/",
        f"images/{JOB}/{TOKEN}/.3.jpg.0123456789abcdef.tmp",
        "/etc/passwd",
        KEY + "\0",
        "x" * 5000,
        image_key(JOB, TOKEN, 4, "jpeg"),
        image_key("job_" + "2b" * 12, TOKEN, 3, "jpeg"),
    ],
)
async def test_other_names_are_missing(store: PictureStore, key: str):
    with pytest.raises(PictureMissing):
        await store.open(key)


@pytest.mark.parametrize("level", ["file", "token", "job", "images"])
async def test_a_link_anywhere_in_the_store_is_missing(store: PictureStore, root: Path, level: str):
    depth = {"images": 0, "job": 1, "token": 2, "file": 3}[level]
    link = root.joinpath(*KEY.split("/")[: depth + 1])
    outside = root.parent / "outside"
    link.rename(outside)
    link.symlink_to(outside)
    assert (root / KEY).read_bytes() == DATA
    with pytest.raises(PictureMissing):
        await store.open(KEY)


async def test_a_fifo_or_a_folder_under_a_pictures_name_is_missing(store: PictureStore, root: Path):
    (root / KEY).unlink()
    os.mkfifo(root / KEY)
    with pytest.raises(PictureMissing):
        await store.open(KEY)
    (root / KEY).unlink()
    (root / KEY).mkdir()
    with pytest.raises(PictureMissing):
        await store.open(KEY)


def signed(store: PictureStore, key: str = KEY, *, expires_in: int = 60) -> tuple[str, str, str]:
    parts = urlsplit(store.links.path(key, expires_in=expires_in, now=NOW))
    assert parts.path == f"/pictures/{key}"
    query = parse_qs(parts.query, strict_parsing=True)
    return key, query["expires"][0], query["signature"][0]


async def test_a_link_of_ours_is_accepted_until_it_expires(store: PictureStore):
    key, expires, signature = signed(store)
    store.links.verify(key, expires=expires, signature=signature, now=NOW)
    store.links.verify(key, expires=expires, signature=signature, now=NOW + 59.9)
    for late in (NOW + 60, NOW + 10_000):
        with pytest.raises(SignatureExpired, match="get a new one"):
            store.links.verify(key, expires=expires, signature=signature, now=late)


def flipped(hex_text: str) -> str:
    return ("0" if hex_text[0] != "0" else "1") + hex_text[1:]


@pytest.mark.parametrize(
    "change",
    [
        lambda key, expires, signature: (image_key(JOB, TOKEN, 4, "jpeg"), expires, signature),
        lambda key, expires, signature: (key, str(int(expires) + 1), signature),
        lambda key, expires, signature: (key, "0" + expires, signature),
        lambda key, expires, signature: (key, expires + " ", signature),
        lambda key, expires, signature: (key, "", signature),
        lambda key, expires, signature: (key, "9" * 4000, signature),
        lambda key, expires, signature: (key, "\u0661" + expires[1:], signature),
        lambda key, expires, signature: (key, "-1", signature),
        lambda key, expires, signature: (key, expires, flipped(signature)),
        lambda key, expires, signature: (key, expires, signature.upper()),
        lambda key, expires, signature: (key, expires, signature[:-1]),
        lambda key, expires, signature: (key, expires, ""),
        lambda key, expires, signature: (key, expires, "é\ud800"),
        lambda key, expires, signature: (key + "\ud800", expires, signature),
        lambda key, expires, signature: (f"{key}\n{expires}", expires, signature),
    ],
)
async def test_a_changed_link_is_refused_young_or_old(store: PictureStore, change: Any):
    key, expires, signature = change(*signed(store))
    for now in (NOW, NOW + 100_000):
        with pytest.raises(SignatureInvalid):
            store.links.verify(key, expires=expires, signature=signature, now=now)


async def test_another_key_signs_other_links(store: PictureStore, root: Path):
    other = PictureStore.from_url(root.as_uri(), signing_key=bytes(32))
    key, expires, signature = signed(other)
    with pytest.raises(SignatureInvalid):
        store.links.verify(key, expires=expires, signature=signature, now=NOW)


async def test_keys_change_while_links_live(root: Path):
    """First every gateway accepts the next key, then they sign with it one by one, then the former one goes."""
    former, following = SIGNING_KEY, bytes(32)

    def gateway(signing_key: bytes, *accepted: bytes) -> PictureStore:
        return PictureStore.from_url(root.as_uri(), signing_key=signing_key, accepted=accepted)

    at_first, changing, changed = gateway(former, following), gateway(following, former), gateway(following)
    for maker in (gateway(former), at_first, changing):
        key, expires, signature = signed(maker)
        for opener in (at_first, changing):
            opener.links.verify(key, expires=expires, signature=signature, now=NOW)
    with pytest.raises(SignatureExpired):
        changing.links.verify(key, expires=expires, signature=signature, now=NOW + 7200)
    key, expires, signature = signed(at_first)
    with pytest.raises(SignatureInvalid):
        changed.links.verify(key, expires=expires, signature=signature, now=NOW)


async def test_a_link_made_by_a_clock_far_ahead_is_refused(store: PictureStore):
    key, expires, signature = signed(store, expires_in=3600)
    store.links.verify(key, expires=expires, signature=signature, now=NOW)
    with pytest.raises(SignatureInvalid, match="clock"):
        store.links.verify(key, expires=expires, signature=signature, now=NOW - 7200)


@pytest.mark.parametrize("expires_in", [0, -5, 3601, 10**9])
async def test_no_link_lives_longer_than_an_hour(store: PictureStore, expires_in: int):
    with pytest.raises(ValueError, match="1 to 3600"):
        await store.link(KEY, expires_in=expires_in, now=NOW)


async def test_no_link_is_made_for_another_key(store: PictureStore):
    with pytest.raises(ValueError, match="not a picture's key"):
        await store.link("images/../secret", expires_in=60, now=NOW)


async def test_a_folder_is_linked_through_the_gateway(store: PictureStore):
    assert not store.can_sign
    link = await store.link(KEY, expires_in=60, now=NOW)
    assert link == store.links.path(KEY, expires_in=60, now=NOW)
    with pytest.raises(StoreUnavailable, match="cannot sign"):
        await store.signed_url(KEY, expires_in=60)


async def test_settings_that_cannot_work_are_refused(root: Path):
    with pytest.raises(ValueError, match="32 random ones"):
        PictureStore.from_url(root.as_uri(), signing_key=b"short")
    with pytest.raises(ValueError, match="32 random ones"):
        PictureStore.from_url(root.as_uri(), signing_key=SIGNING_KEY, accepted=[b"short"])
    with pytest.raises(ValueError, match="needs a bucket"):
        PictureStore.from_url(root.as_uri(), signing_key=SIGNING_KEY, public_endpoint="https://s3.example")
    with pytest.raises(StoreDenied, match="make it a writable folder"):
        PictureStore.from_url((root.parent / "secret").as_uri(), signing_key=SIGNING_KEY)


async def test_deleting_a_job_makes_its_pictures_missing(store: PictureStore, root: Path):
    assert await store.delete_prefix(job_prefix(JOB)) == 1
    assert await store.delete_prefix(job_prefix(JOB)) == 0
    with pytest.raises(PictureMissing):
        await store.open(KEY)
    with pytest.raises(ValueError, match="not a prefix"):
        await store.delete_prefix("images")


async def test_a_healthy_folder_is_writable_and_has_room(store: PictureStore, root: Path):
    await store.check()
    assert not [path for path in (root / "probe").rglob("*") if path.is_file()]
    free = await store.free_bytes()
    assert free is not None
    assert 0 < free <= os.statvfs(root).f_blocks * os.statvfs(root).f_frsize


async def test_a_small_disk_says_how_small(small_disk: Path):
    store = PictureStore.from_url(small_disk.as_uri(), signing_key=SIGNING_KEY)
    before = await store.free_bytes()
    (small_disk / "filler").write_bytes(b"x" * 65536)
    after = await store.free_bytes()
    assert before is not None
    assert after is not None
    assert 128 * 1024 >= before == after + 65536


async def test_a_locked_folder_fails_its_check_with_the_remedy(locked_folder: Path):
    store = PictureStore.from_url(locked_folder.as_uri(), signing_key=SIGNING_KEY)
    with pytest.raises(StoreDenied, match=r"permission denied.*writable folder"):
        await store.check()


async def test_memory_streams_and_does_not_sign():
    store = PictureStore.from_url("memory://", signing_key=SIGNING_KEY)
    store.place.put(KEY, DATA, "image/jpeg")
    assert not store.can_sign
    assert await store.free_bytes() is None
    assert await read(store) == DATA
    assert await read(store, byte_range="bytes=-9") == DATA[-9:]
    await store.check()


async def test_a_bucket_that_refuses_connections_is_unavailable(nobody_listens: str):
    options = StoreOptions(
        endpoint=nobody_listens, region="r", access_key_id="a", secret_access_key="b", request_timeout=1
    )
    store = PictureStore.from_url("s3://bucket", signing_key=SIGNING_KEY, options=options)
    for call in (store.open(KEY), store.open(KEY, byte_range="bytes=0-1"), store.check()):
        with pytest.raises(StoreUnavailable, match="does not answer") as failed:
            await call
        assert TOKEN not in str(failed.value)


@pytest.fixture
def s3_store(s3_server: S3Server) -> PictureStore:
    store = PictureStore.from_url(s3_server.url, signing_key=SIGNING_KEY, options=s3_server.options)
    store.place.delete_prefix(job_prefix(JOB))
    store.place.put(KEY, DATA, "image/jpeg")
    return store


@pytest.fixture
async def browser() -> Any:
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        yield client


@pytest.mark.s3
async def test_s3_serves_a_presigned_url_with_type_and_name(s3_store: PictureStore, browser: httpx2.AsyncClient):
    assert s3_store.can_sign
    answer = await browser.get(await s3_store.link(KEY, expires_in=60, now=NOW))
    assert answer.status_code == 200
    assert answer.content == DATA
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == f'inline; filename="{JOB}-3.jpg"'
    picture = await s3_store.open(KEY)
    assert picture.etag == answer.headers["etag"]
    assert picture.last_modified == parsedate_to_datetime(answer.headers["last-modified"])
    assert b"".join([chunk async for chunk in picture.chunks]) == DATA


@pytest.mark.s3
async def test_s3_refuses_a_tampered_or_expired_url(s3_store: PictureStore, browser: httpx2.AsyncClient):
    link = await s3_store.signed_url(KEY, expires_in=60)
    for changed in (
        link.replace("/3.jpg", "/4.jpg"),
        link.replace("Expires=60", "Expires=3600"),
        link[:-1] + flipped(link[-1]),
        link.split("?")[0],
    ):
        assert changed != link
        assert (await browser.get(changed)).status_code == 403
    assert (await browser.put(link, content=b"overwritten")).status_code == 403
    short = await s3_store.signed_url(KEY, expires_in=1)
    assert await refused_within(browser, short, seconds=WAIT_SECONDS)
    assert await read(s3_store) == DATA


async def refused_within(browser: httpx2.AsyncClient, link: str, *, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        while True:
            if (await browser.get(link)).status_code == 403:
                return True
            await anyio.sleep(0.2)
    return False


@pytest.mark.s3
@pytest.mark.parametrize("header", ["bytes=0-0", "bytes=100-", "bytes=-7", f"bytes=5-{SIZE * 2}", "bytes=0-1,3-4"])
async def test_s3_streams_the_same_ranges_as_a_folder(s3_store: PictureStore, store: PictureStore, header: str):
    ours, theirs = await store.open(KEY, byte_range=header), await s3_store.open(KEY, byte_range=header)
    ours.close()
    assert (ours.start, ours.end, ours.size) == (theirs.start, theirs.end, theirs.size)
    assert await read(store, byte_range=header) == await read(s3_store, byte_range=header)


@pytest.mark.s3
async def test_s3_refuses_what_a_folder_refuses(s3_store: PictureStore):
    with pytest.raises(PictureMissing):
        await s3_store.open(image_key(JOB, TOKEN, 9, "png"))
    with pytest.raises(PictureMissing):
        await s3_store.open("images/../awake")
    with pytest.raises(RangeNotSatisfiable):
        await s3_store.open(KEY, byte_range=f"bytes={SIZE}-")
    assert await s3_store.free_bytes() is None
    await s3_store.check()
    assert await s3_store.delete_prefix(job_prefix(JOB)) == 1
    with pytest.raises(PictureMissing):
        await s3_store.open(KEY)


@pytest.mark.s3
async def test_s3_with_wrong_credentials_is_denied(s3_server: S3Server):
    options = replace(s3_server.options, secret_access_key="wrong")
    store = PictureStore.from_url(s3_server.url, signing_key=SIGNING_KEY, options=options)
    for call in (store.open(KEY), store.check(), store.delete_prefix(job_prefix(JOB))):
        with pytest.raises(StoreDenied, match="SignatureDoesNotMatch"):
            await call


@pytest.mark.s3
async def test_s3_links_lead_to_the_address_that_browsers_see(s3_server: S3Server, browser: httpx2.AsyncClient):
    public = s3_server.endpoint.replace("127.0.0.1", "localhost")
    store = PictureStore.from_url(
        s3_server.url, signing_key=SIGNING_KEY, options=s3_server.options, public_endpoint=public
    )
    store.place.put(KEY, DATA, "image/jpeg")
    link = await store.link(KEY, expires_in=60, now=NOW)
    assert link.startswith(public)
    assert (await browser.get(link)).content == DATA
