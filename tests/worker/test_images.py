"""The file tells how it was made: golden notes, exact records, and refusal of what is no picture of ours."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from app.contract.messages.picture_record import MAX_PIXELS, MAX_RECORD_BYTES, PictureError, RecordMissing, read_record
from app.contract.objects.names import CONTENT_TYPES
from worker.images import encode, encode_preview, parameters_text

FORMATS = ["png", "jpeg", "webp"]
RECORD: dict[str, Any] = {
    "prompt": "a red fox in the snow",
    "negative_prompt": "blurry, text",
    "num_inference_steps": 20,
    "scheduler": "euler_a",
    "guidance_scale": 7.0,
    "seed": 42,
    "width": 64,
    "height": 48,
    "model": "starter",
    "model_hash": "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
    "version": "0.1.0",
    "solver": {"order": 1, "karras": False},
    "bucket": 4,
}
UNICODE_PROMPTS = [
    "naïve café",
    "雪の中の狐",
    "лиса 🦊 в снегу",
    "\u202ertl override",
    '<script>alert("&amp;")</script> ]]>',
    "line one\nline two\n\tNegative prompt: forged",
    "nbsp\xa0 del\x7f c1\x85 noncharacter\uffff bell\x07",
]


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_quality_decides_the_size(output_format: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    sizes = [len(encode(noise, output_format=output_format, record={}, quality=q)) for q in (0, 30, 60, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 2
    assert len(encode(noise, output_format=output_format, record={})) in range(sizes[2], sizes[3])


def test_a_png_has_no_quality(pixels: np.ndarray) -> None:
    assert encode(pixels, output_format="png", record={}, quality=100) == encode(pixels, output_format="png", record={})


def user_comment(image: Image.Image) -> str:
    raw = image.getexif().get_ifd(0x8769)[0x9286]
    assert raw[:8] == b"UNICODE\0"
    return raw[8:].decode("utf-16-be")


def noted_parameters(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return image.info["parameters"] if image.format == "PNG" else user_comment(image)


def chunk_names(png: bytes) -> list[bytes]:
    names, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.append(png[at + 4 : at + 8])
        at += 12 + length
    return names


def test_parameters_are_written_as_the_community_reads_them():
    assert parameters_text(RECORD) == (
        "a red fox in the snow\n"
        "Negative prompt: blurry, text\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 64x48, "
        "Model hash: 6ce0161689, Model: starter, Version: darkroom 0.1.0"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"negative_prompt": ""}, "p\nSteps: 5, Seed: 0"),
        ({"negative_prompt": None, "guidance_scale": 7.5}, "p\nSteps: 5, CFG scale: 7.5, Seed: 0"),
        ({"scheduler": "dpmpp_2m_karras"}, "p\nSteps: 5, Sampler: DPM++ 2M, Schedule type: Karras, Seed: 0"),
        ({"scheduler": "EulerDiscreteScheduler"}, "p\nSteps: 5, Sampler: Euler, Seed: 0"),
        ({"scheduler": "TCDScheduler"}, "p\nSteps: 5, Sampler: TCD, Seed: 0"),
        ({"scheduler": "dpmpp_sde"}, "p\nSteps: 5, Sampler: DPM++ 2M SDE, Seed: 0"),
        ({"scheduler": "kdpm2_a"}, "p\nSteps: 5, Sampler: DPM2 a, Seed: 0"),
        ({"clip_skip": 1}, "p\nSteps: 5, Seed: 0, Clip skip: 2"),
        ({"scheduler": "ddim_eta1"}, "p\nSteps: 5, Sampler: DDIM, Eta DDIM: 1, Seed: 0"),
        ({"scheduler": "of_a_newer_worker"}, "p\nSteps: 5, Sampler: of_a_newer_worker, Seed: 0"),
        ({"model": 'red, "fox": v1'}, 'p\nSteps: 5, Seed: 0, Model: "red, \\"fox\\": v1"'),
        ({"model": "two\nlines"}, 'p\nSteps: 5, Seed: 0, Model: "two\\nlines"'),
        ({"model": 'only "quotes"'}, 'p\nSteps: 5, Seed: 0, Model: only "quotes"'),
        ({"model": "狐, 雪"}, 'p\nSteps: 5, Seed: 0, Model: "狐, 雪"'),
        ({"width": 512}, "p\nSteps: 5, Seed: 0"),
        ({"prompt": "a (b)", "negative_prompt": "[c]"}, "a \\(b\\)\nNegative prompt: \\[c\\]\nSteps: 5, Seed: 0"),
        (
            {"prompt": "a (b)", "negative_prompt": "[c]", "prompt_syntax": "a1111"},
            "a (b)\nNegative prompt: [c]\nSteps: 5, Seed: 0",
        ),
        ({"prompt": "", "negative_prompt": "n"}, "Negative prompt: n\nSteps: 5, Seed: 0"),
        ({"prompt": "nul\0 and \ud800"}, "nul and ?\nSteps: 5, Seed: 0"),
    ],
)
def test_parameters_of_odd_records(changes: dict[str, Any], text: str):
    assert parameters_text({"prompt": "p", "num_inference_steps": 5, "seed": 0, **changes}) == text


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_file_is_what_its_content_type_says(pixels: np.ndarray, output_format: Any):
    with Image.open(io.BytesIO(encode(pixels, output_format=output_format, record=RECORD))) as image:
        assert image.get_format_mimetype() == CONTENT_TYPES[output_format]
        assert image.size == (64, 48)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("prompt", ["plain", *UNICODE_PROMPTS])
def test_record_and_parameters_survive(pixels: np.ndarray, output_format: Any, prompt: str):
    record = {**RECORD, "prompt": prompt}
    data = encode(pixels, output_format=output_format, record=record)
    assert read_record(data) == record
    assert noted_parameters(data) == parameters_text(record)


@settings(max_examples=40)
@given(prompt=st.text(alphabet=st.characters(), max_size=60), output_format=st.sampled_from(FORMATS))
def test_any_text_at_all_survives_in_the_record(prompt: str, output_format: Any):
    record = {"prompt": prompt, "seed": 2**63 - 1}
    assert read_record(encode(np.zeros((8, 8, 3), np.uint8), output_format=output_format, record=record)) == record


def test_longest_prompts_of_four_byte_characters_fit_every_format(pixels: np.ndarray):
    record = {**RECORD, "prompt": "🦊" * 2000, "negative_prompt": "🐺" * 2000}
    for output_format in FORMATS:
        assert read_record(encode(pixels, output_format=output_format, record=record)) == record  # type: ignore[arg-type]


def test_png_keeps_every_pixel(pixels: np.ndarray):
    noise = np.random.default_rng(7).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    for picture in (pixels, noise, noise[::2, ::-1]):
        with Image.open(io.BytesIO(encode(picture, output_format="png", record=RECORD))) as image:
            assert np.array_equal(np.asarray(image), picture)


@pytest.mark.parametrize(("output_format", "mean_error"), [("jpeg", 1.5), ("webp", 3.0)])
def test_lossy_formats_stay_close(pixels: np.ndarray, output_format: Any, mean_error: float):
    with Image.open(io.BytesIO(encode(pixels, output_format=output_format, record=RECORD))) as image:
        assert np.abs(np.asarray(image.convert("RGB"), int) - pixels).mean() < mean_error


def test_png_notes_stand_before_the_pixels_in_the_right_kind_of_chunk(pixels: np.ndarray):
    plain = chunk_names(encode(pixels, output_format="png", record=RECORD))
    assert plain[:4] == [b"IHDR", b"tEXt", b"iTXt", b"IDAT"]
    foreign = chunk_names(encode(pixels, output_format="png", record={**RECORD, "prompt": "狐"}))
    assert foreign[:4] == [b"IHDR", b"iTXt", b"iTXt", b"IDAT"]


def test_png_is_compressed_at_the_fast_level(pixels: np.ndarray):
    png = encode(pixels, output_format="png", record={})
    start = png.index(b"IDAT") + 4
    # zlib header, FLEVEL: 0 is what levels 0 and 1 write.
    assert png[start] == 0x78
    assert png[start + 1] >> 6 == 0
    assert len(png) < pixels.nbytes


def test_jpeg_has_no_chroma_subsampling(pixels: np.ndarray):
    with Image.open(io.BytesIO(encode(pixels, output_format="jpeg", record=RECORD))) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(bad: np.ndarray):
    with pytest.raises(ValueError, match="pixels must be uint8"):
        encode(bad, output_format="png", record={})


def test_other_formats_and_records_are_refused(pixels: np.ndarray):
    with pytest.raises(ValueError, match="unknown output format 'gif'"):
        encode(pixels, output_format="gif", record={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not JSON"):
        encode(pixels, output_format="png", record={"seed": object()})
    with pytest.raises(ValueError, match="not JSON"):
        encode(pixels, output_format="png", record={"guidance_scale": float("nan")})
    with pytest.raises(ValueError, match="longer than"):
        encode(pixels, output_format="png", record={"prompt": "x" * MAX_RECORD_BYTES})


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_picture_made_elsewhere_has_no_record(pixels: np.ndarray, output_format: str):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, output_format.upper())
    with pytest.raises(RecordMissing, match="no darkroom record"):
        read_record(buffer.getvalue())


def png_with(chunks: list[tuple[bytes, bytes]]) -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" * 4)), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data


def itxt(text: str, *, squeezed: bool = False) -> tuple[bytes, bytes]:
    body = zlib.compress(text.encode(), 9) if squeezed else text.encode()
    return b"iTXt", b"darkroom\0" + bytes([squeezed, 0]) + b"\0\0" + body


def jpeg_with_xmp(packet: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", xmp=packet)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a not ours",
        b"\x89PNG\r\n\x1a\n",
        png_with([])[:30],
        png_with([itxt("{}")])[:50],
        png_with([(b"iTXt", b"darkroom\0")]),
        png_with([(b"iTXt", b"darkroom\0\1\0\0\0no zlib")]),
        png_with([(b"iTXt", b"darkroom\0\0\0\0\0\xff")]),
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1\0\0" + b"x" * 20,
        b"\xff\xd8\xff\xe1\xff\xff",
        b"\xff\xd8\xff\xe1\0\4xxNo marker",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPXMP \xff\xff\xff\xff",
        png_with([itxt("{" * 100_000)]),
        png_with([itxt("[" * 50_000)]),
        png_with([itxt("not json")]),
        png_with([itxt("[1, 2]")]),
        png_with([itxt('{"a": ' + "9" * 5000 + "}")]),
        png_with([itxt('{"a": "' + "x" * 3_000_000 + '"}', squeezed=True)]),
        jpeg_with_xmp(
            b"<!DOCTYPE r [<!ENTITY a '{}'><!ENTITY b '&a;'>]>"
            b'<r xmlns:d="urn:darkroom:1.0/"><d:record>&b;</d:record></r>'
        ),
        jpeg_with_xmp(b"<x>unclosed"),
        jpeg_with_xmp(b'<r xmlns:d="urn:darkroom:1.0/"><d:record>{broken</d:record></r>'),
    ],
    ids=lambda data: f"{len(data)} bytes of {data[-40:-20]!r}",
)
def test_broken_or_hostile_files_are_refused(data: bytes):
    with pytest.raises(PictureError) as refused:
        read_record(data)
    assert len(refused.value.detail) < 200


def test_the_record_is_read_behind_the_pixels_too():
    """Where other programs put text."""
    png = png_with([])
    end = png[-12:]
    (name, body) = itxt('{"seed":2}')
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    assert read_record(png[:-12] + chunk + end) == {"seed": 2}


def test_a_picture_too_large_to_be_ours_is_asked_without_its_pixels(monkeypatch: pytest.MonkeyPatch):
    side, note = 12_000, PngImagePlugin.PngInfo()
    assert side * side > MAX_PIXELS
    note.add_itxt("darkroom", '{"seed":3}')
    ours, other = io.BytesIO(), io.BytesIO()
    Image.new("1", (side, side)).save(ours, "PNG", pnginfo=note)
    Image.new("1", (side, side)).save(other, "PNG")

    def load(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    assert read_record(ours.getvalue()) == {"seed": 3}
    with pytest.raises(RecordMissing):
        read_record(other.getvalue())


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_file_cut_anywhere_is_read_or_refused(pixels: np.ndarray, output_format: Any):
    data = encode(pixels, output_format=output_format, record=RECORD)
    for length in range(0, len(data), 7):
        with contextlib.suppress(PictureError):
            assert read_record(data[:length]) == RECORD


@settings(max_examples=200)
@given(
    output_format=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_file_with_changed_bytes_is_read_or_refused(output_format: Any, changes: list[tuple[int, int]]):
    data = bytearray(encode(np.zeros((8, 8, 3), np.uint8), output_format=output_format, record=RECORD))
    for place, byte in changes:
        data[place % len(data)] = byte
    with contextlib.suppress(PictureError):
        assert isinstance(read_record(bytes(data)), dict)


def test_a_picture_of_a_million_text_chunks_is_refused():
    many = [itxt("x" * 900_000, squeezed=True)] * 80
    with pytest.raises(PictureError):
        read_record(png_with(many))


def test_a_record_that_another_program_rewrote_as_an_attribute_is_read():
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:darkroom="urn:darkroom:1.0/" darkroom:record="{&quot;seed&quot;:0}"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    assert read_record(jpeg_with_xmp(packet.encode())) == {"seed": 0}


def test_the_record_is_plain_json_in_an_itxt_chunk(pixels: np.ndarray):
    with Image.open(io.BytesIO(encode(pixels, output_format="png", record=RECORD))) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert isinstance(image.info["darkroom"], PngImagePlugin.iTXt)
        assert json.loads(image.info["darkroom"]) == RECORD


def test_a_record_that_another_program_moved_to_a_plain_text_chunk_is_read():
    assert read_record(png_with([(b"tEXt", b"parameters\0x"), (b"tEXt", b'darkroom\0{"seed":0}')])) == {"seed": 0}
    assert read_record(png_with([itxt('{"seed":1}', squeezed=True)])) == {"seed": 1}


@settings(max_examples=200)
@given(
    data=st.binary(max_size=200), head=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBP", b""])
)
def test_any_bytes_are_read_or_refused(data: bytes, head: bytes):
    with contextlib.suppress(PictureError):
        assert isinstance(read_record(head + data), dict)


def test_a_preview_is_a_small_jpeg_without_notes(pixels: np.ndarray):
    jpeg = encode_preview(pixels)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.size, "exif" in image.info) == ("JPEG", (64, 48), False)
    assert len(jpeg) < pixels.nbytes / 4
