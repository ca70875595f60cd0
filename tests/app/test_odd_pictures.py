"""Every kind of odd picture in one table, sent to a gateway process: what is taken, what is refused and how.

All rows together: gateway and decoder have needed no more memory than a few pictures take, and what was hidden in a
file is in no answer, no object, no log and not in Redis.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from tests.app.gateway_process import Process, gateway_process
from tests.app.test_table import HOST
from tests.pictures import file_of, noise, picture_in

CANARY = "zanzibar-4711"
MEMORY_BYTES = 50 * 2**20
"""More for the gateway than before the first row, at any time. Measured: 2 MiB, since it decodes nothing."""

DECODER_BYTES = 320 * 2**20
"""For the process that decodes, at any time. Measured: 221 MiB, for a picture of 16 megapixels. The bombs of the table
would take gigabytes."""


@dataclass(frozen=True)
class Row:
    """A file, the type it is said to be, and what is answered: the picture that is kept, or the code of the reason."""

    data: Callable[[], bytes]
    declared: str = "image/png"
    code: str = ""
    kept: tuple[str, str, tuple[int, int]] = ("image/png", "RGB", (64, 48))
    slug: str = "picture-unusable"
    status: int = 422


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header says a size, in grey of one bit, with whatever pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def webp_canvas(side: int) -> bytes:
    """A WebP of 16 x 16 pixels whose header says that it is as large as can be."""
    sides = (side - 1).to_bytes(3, "little") * 2
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes([0x10, 0, 0, 0]) + sides + file_of(noise(16, 16), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def many_scans() -> bytes:
    """A progressive JPEG that is a few hundred kB and takes minutes to decode."""
    data = file_of(Image.new("L", (4096, 4096)), "JPEG", progressive=True)
    scan, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    return data[:end] + data[scan:end] * 500 + data[end:]


def commented(between: bytes = b"\xff\xfe\x00\x02" * 5_000) -> bytes:
    """A JPEG with that many empty comments before its pixels. One of 20 MB takes minutes to read."""
    data = file_of(noise(), "JPEG")
    return data[:2] + between + data[2:]


def chunked(count: int = 6_000) -> bytes:
    """A PNG whose pixels stand behind that many empty chunks of them."""
    data = file_of(noise())
    pixels = data.find(b"IDAT") - 4
    return data[:pixels] + (b"\x00" * 4 + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))) * count + data[pixels:]


def in_chunks_of(size: int) -> bytes:
    """A PNG of 13 MiB whose pixels come in pieces of so many bytes."""
    data = file_of(Image.new("RGB", (2_340, 2_000)), compress_level=0)
    begin, end = data.find(b"IDAT") - 4, data.rfind(b"IEND") - 4
    pixels = zlib.compress(zlib.decompress(b"".join(_idats(data[begin:end]))), 0)
    pieces = (b"IDAT" + pixels[at : at + size] for at in range(0, len(pixels), size))
    return data[:begin] + b"".join(_chunk(piece) for piece in pieces) + data[end:]


def _idats(chunks: bytes) -> Iterator[bytes]:
    while chunks:
        length = int.from_bytes(chunks[:4])
        yield chunks[8 : 8 + length]
        chunks = chunks[12 + length :]


def _chunk(piece: bytes) -> bytes:
    return struct.pack(">I", len(piece) - 4) + piece + struct.pack(">I", zlib.crc32(piece))


def hidden(kind: str) -> bytes:
    """A picture with a place, an author and a comment in every way that its format has, and something behind it."""
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = CANARY
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 17.0), 0x1B: CANARY.encode()}
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>{CANARY}</a></x:xmpmeta>'.encode()
    options: dict[str, object] = {"exif": exif, "xmp": xmp, "icc_profile": profile() + CANARY.encode()}
    if kind == "PNG":
        text = PngInfo()
        text.add_text("Comment", CANARY)
        text.add_itxt("Location", CANARY, zip=True)
        options = {"exif": exif, "pnginfo": text, "icc_profile": profile()}
    if kind == "JPEG":
        options["comment"] = CANARY.encode()
    if kind == "MPO":
        behind = noise()
        options = {"exif": exif, "save_all": True, "append_images": [behind]}
    return file_of(noise(), kind, **options) + CANARY.encode()


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def turned() -> bytes:
    """64 x 48 pixels that EXIF says to turn by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(noise(), "JPEG", exif=exif)


def animated(kind: str) -> bytes:
    other = noise().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return file_of(noise(), kind, save_all=True, append_images=[other])


def of_mode(mode: str, kind: str = "PNG", **options: object) -> Callable[[], bytes]:
    def made() -> bytes:
        picture = noise(mode="L").convert(mode)
        if mode in ("LA", "RGBA"):
            picture.putalpha(noise(mode="L"))
        return file_of(picture, kind, **options)

    return made


def kept(kind: str, mode: str, size: tuple[int, int] = (64, 48)) -> tuple[str, str, tuple[int, int]]:
    return f"image/{kind}", mode, size


GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'

ROWS: dict[str, Row] = {
    "rgb": Row(of_mode("RGB")),
    "rgba": Row(of_mode("RGBA"), kept=kept("png", "RGBA")),
    "grey": Row(of_mode("L"), kept=kept("png", "L")),
    "grey with alpha": Row(of_mode("LA"), kept=kept("png", "RGBA")),
    "one bit": Row(of_mode("1"), kept=kept("png", "L")),
    "sixteen bits": Row(of_mode("I;16"), kept=kept("png", "L")),
    "palette": Row(of_mode("P")),
    "palette with a transparent colour": Row(of_mode("P", transparency=3), kept=kept("png", "RGBA")),
    "a transparent colour": Row(of_mode("RGB", transparency=(1, 2, 3)), kept=kept("png", "RGBA")),
    "jpeg": Row(of_mode("RGB", "JPEG"), "image/jpeg", kept=kept("jpeg", "RGB")),
    "jpeg by the name that it does not have": Row(of_mode("RGB", "JPEG"), "image/jpg", kept=kept("jpeg", "RGB")),
    "jpeg in grey": Row(of_mode("L", "JPEG"), "image/jpeg", kept=kept("jpeg", "L")),
    "jpeg in cmyk": Row(of_mode("CMYK", "JPEG"), "image/jpeg", kept=kept("jpeg", "RGB")),
    "jpeg turned by exif": Row(turned, "image/jpeg", kept=kept("jpeg", "RGB", (48, 64))),
    "jpeg of a phone, with a second picture": Row(partial(hidden, "MPO"), "image/jpeg", kept=kept("jpeg", "RGB")),
    "jpeg with everything hidden": Row(partial(hidden, "JPEG"), "image/jpeg", kept=kept("jpeg", "RGB")),
    "png with everything hidden": Row(partial(hidden, "PNG")),
    "webp with everything hidden": Row(partial(hidden, "WEBP"), "image/webp"),
    "webp": Row(of_mode("RGB", "WEBP"), "image/webp"),
    "webp with alpha": Row(of_mode("RGBA", "WEBP"), "image/webp", kept=kept("png", "RGBA")),
    "a colour profile that is none": Row(of_mode("RGB", icc_profile=b"junk" * 99)),
    "a colour profile of another space": Row(
        of_mode("RGB", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    ),
    "a zip behind a png": Row(lambda: of_mode("RGB")() + b"PK\x03\x04" + CANARY.encode()),
    "16 megapixels": Row(lambda: file_of(Image.new("RGBA", (4096, 4096))), kept=kept("png", "RGBA", (4096, 4096))),
    "16 megapixels, progressive": Row(
        lambda: file_of(Image.new("RGB", (4096, 4096)), "JPEG", progressive=True, subsampling=0),
        "image/jpeg",
        kept=kept("jpeg", "RGB", (4096, 4096)),
    ),
    "a row of pixels more": Row(lambda: file_of(Image.new("1", (4096, 4097))), code="too_many_pixels"),
    "a bomb": Row(lambda: png_of(16_000, 16_000, b"\x00" * 32_016_000), code="too_many_pixels"),
    "a bomb beyond all": Row(lambda: png_of(2**31 - 1, 2**31 - 1), code="too_many_pixels"),
    "a bomb in webp": Row(lambda: webp_canvas(16_383), "image/webp", code="too_many_pixels"),
    "a webp of a row more": Row(
        lambda: file_of(Image.new("1", (4096, 4097)), "WEBP", lossless=True, method=0),
        "image/webp",
        code="too_many_pixels",
    ),
    "1 x 60000": Row(lambda: file_of(Image.new("L", (1, 60_000))), code="side_too_long"),
    "no pixels": Row(lambda: png_of(0, 0), code="not_a_picture"),
    "a jpeg of 500 scans": Row(many_scans, "image/jpeg", code="too_many_scans"),
    "a jpeg of 5,000 comments": Row(commented, "image/jpeg", code="too_many_parts"),
    "a jpeg that is padded": Row(partial(commented, b"\xff" * 20_000), "image/jpeg", code="too_many_parts"),
    "a png of 6,000 chunks": Row(chunked, code="too_many_parts"),
    "a png of 2,500 chunks": Row(partial(chunked, 2_500)),
    "a png of 13 MiB in chunks of 4 KiB, as ffmpeg writes them": Row(
        partial(in_chunks_of, 4096), kept=kept("png", "RGB", (2_340, 2_000))
    ),
    "a text of 70 MB, packed": Row(lambda: file_of(noise(), pnginfo=_long_text()), code="broken"),
    "animated png": Row(partial(animated, "PNG"), code="animated"),
    "animated webp": Row(partial(animated, "WEBP"), "image/webp", code="animated"),
    "half a png": Row(lambda: file_of(noise())[:900], code="broken"),
    "half a jpeg": Row(lambda: file_of(noise(), "JPEG")[:900], "image/jpeg", code="broken"),
    "half a webp": Row(lambda: file_of(noise(), "WEBP")[:900], "image/webp", code="broken"),
    "a png with a wrong checksum": Row(lambda: _spoilt(file_of(noise())), code="broken"),
    "a signature and nothing": Row(lambda: b"\x89PNG\r\n\x1a\n", code="not_a_picture"),
    "gif": Row(lambda: GIF, code="not_a_picture"),
    "svg": Row(lambda: SVG, code="not_a_picture"),
    "html": Row(lambda: f"<html>{CANARY}</html>".encode(), code="not_a_picture"),
    "bmp": Row(lambda: file_of(noise(), "BMP"), code="not_a_picture"),
    "tiff": Row(lambda: file_of(noise(), "TIFF"), code="not_a_picture"),
    "empty": Row(lambda: b"", code="empty"),
    "a jpeg that is said to be a png": Row(of_mode("RGB", "JPEG"), code="type_differs"),
    "svg, as it calls itself": Row(lambda: SVG, "image/svg+xml", slug="unsupported-media-type", status=415),
    "gif, as it calls itself": Row(lambda: GIF, "image/gif", slug="unsupported-media-type", status=415),
    "bytes": Row(of_mode("RGB"), "application/octet-stream", slug="unsupported-media-type", status=415),
    "20 MiB and a byte": Row(lambda: b"\x00" * (20 * 2**20 + 1), slug="body-too-large", status=413),
}


def _long_text() -> PngInfo:
    text = PngInfo()
    text.add_text("Comment", "x" * 70_000_000, zip=True)
    return text


def _spoilt(png: bytes) -> bytes:
    return png[:60] + bytes([png[60] ^ 1]) + png[61:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Process]:
    with gateway_process(folder) as process:
        yield process


def sent(data: bytes, declared: str) -> bytes:
    head = [b"POST /v1/inputs HTTP/1.1", HOST, b"Connection: close", b"Content-Type: " + declared.encode()]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(data)]) + b"\r\n\r\n" + data


def asked(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def parted(answer: bytes) -> tuple[int, str, bytes]:
    """Status, head and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


@pytest.mark.parametrize("name", list(ROWS))
def test_each_row(gateway: Process, name: str) -> None:
    row = ROWS[name]
    answer = gateway.ask(sent(row.data(), row.declared))
    assert CANARY.encode() not in answer
    status, head, body = parted(answer)
    told = json.loads(body)
    if row.code or row.status != 422:
        assert "application/problem+json" in head
        assert (status, told["type"]) == (row.status, f"/problems/{row.slug}")
        assert len(body) <= 2_048
        assert [error["code"] for error in told.get("errors", [])] == [row.code] * bool(row.code)
        return
    content_type, mode, size = row.kept
    assert status in (200, 201), told
    assert (told["content_type"], (told["width"], told["height"])) == (content_type, size)
    assert told["id"] == parted(gateway.ask(asked(f"/v1/inputs/{told['id']}")))[2].decode()[7:34]
    _, head, file = parted(gateway.ask(asked(f"/v1/inputs/{told['id']}/content")))
    assert f"content-type: {content_type}" in head.lower()
    picture = picture_in(file)
    assert (picture.mode, picture.size) == (mode, size)
    assert not picture.getexif()
    assert picture.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def peak(pid: int) -> int:
    """The most memory that the process has ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_all_rows_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """In a process of their own, whose peak nothing else has raised."""
    with gateway_process(tmp_path) as process:
        gateway = psutil.Process(process.process.pid)
        before = peak(gateway.pid)
        decoders = set[int]()
        for row in ROWS.values():
            process.ask(sent(row.data(), row.declared))
            decoders |= {child.pid for child in gateway.children()}
        assert process.process.poll() is None
        assert peak(gateway.pid) - before <= MEMORY_BYTES
        # One picture after the other: none of them has ended a decoder, so that all that was needed is seen here.
        [decoder] = decoders
        assert peak(decoder) <= DECODER_BYTES
        stored = [file for file in (tmp_path / "pictures" / "inputs").rglob("*") if file.is_file()]
        assert len(stored) >= 20
        assert len(process.redis.keys("darkroom:input:*")) == len(stored)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"pictures", "valkey", "gateway.log"} <= {file.relative_to(tmp_path).parts[0] for file in written}
    assert not [file for file in written if CANARY.encode() in file.read_bytes()]
    assert b"Traceback" not in (tmp_path / "gateway.log").read_bytes()
