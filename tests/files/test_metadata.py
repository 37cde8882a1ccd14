"""EXIF, XMP, colour profile and resolution survive, from every format into every other; JPEG loses no quality."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from photofiles import MAKE, ORIENTATION, make_photo, profile, saved, smooth, tiff_file
from PIL import ExifTags, Image, PngImagePlugin

from blinddeblur.errors import OutputError
from blinddeblur.files.decoding import decode, read
from blinddeblur.files.encoding import encode, write
from blinddeblur.files.headers import png_chunks, read_header
from blinddeblur.files.photo import Photo

FORMATS = (".jpg", ".png", ".webp", ".tiff")
EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop
MODEL, DATE, ARTIST, COPYRIGHT = 0x0110, 0x0132, 0x013B, 0x8298
EXPOSURE_TIME, SPEED, DATE_TAKEN, MAKER_NOTE, LENS = 0x829A, 0x8827, 0x9003, 0x927C, 0xA434
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
LATITUDE_REFERENCE, LATITUDE = 1, 2
DPI = (300, 200)  # of the picture as stored
THUMBNAIL = b"\xff\xd8 a small blurred picture \xff\xd9"

XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    b'tiff:Orientation="%d" xmp:Rating="5">%s</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
XMP_THUMBNAIL = b"<xmp:Thumbnails><rdf:Alt><rdf:li>/9j/4AAQ</rdf:li></rdf:Alt></xmp:Thumbnails>"


def full_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE], exif[MODEL], exif[ORIENTATION] = "A camera", "Its model", orientation
    exif[DATE], exif[ARTIST], exif[COPYRIGHT] = "2026:11:25 10:11:12", "An artist", "(c) The artist"
    inner = exif.get_ifd(EXIF_IFD)
    inner[EXPOSURE_TIME], inner[DATE_TAKEN], inner[LENS] = 0.25, "2026:11:25 10:11:12", "A lens of 50 mm"
    inner[PIXEL_WIDTH], inner[PIXEL_HEIGHT] = (60, 40) if orientation == 1 else (40, 60)
    inner[MAKER_NOTE] = b"MakerNote\0\1\2\3"
    inner[INTEROPERABILITY_IFD] = {1: "R98"}
    exif.get_ifd(GPS_IFD).update({LATITUDE_REFERENCE: "N", LATITUDE: (48.0, 8.0, 11.5)})
    return exif


def full_file(ending: str) -> bytes:
    """A file of Pillow's that holds everything, lying on its side as cameras store it."""
    stored = smooth().transpose(Image.Transpose.ROTATE_90)
    exif, xmp, file = full_exif(6), XMP % (6, XMP_THUMBNAIL), io.BytesIO()
    if ending == ".webp":
        exif[0x011A], exif[0x011B], exif[0x0128] = *DPI, 2
        stored.save(file, "WEBP", lossless=True, exif=exif, xmp=xmp, icc_profile=profile())
    elif ending == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        stored.save(file, "PNG", exif=exif, dpi=DPI, pnginfo=text, icc_profile=profile())
    elif ending == ".tiff":
        exif[700] = xmp
        stored.save(file, "TIFF", exif=exif.tobytes(), dpi=DPI, icc_profile=profile())
    else:
        options = {"quality": 98, "subsampling": 0}
        stored.save(file, "JPEG", exif=exif, dpi=DPI, xmp=xmp, icc_profile=profile(), **options)
    return file.getvalue()


def xmp_of(image: Image.Image) -> bytes | None:
    """XMP as Pillow finds it, in the four places where it has it."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if image.format == "TIFF":
        found = image.tag_v2.get(700)
    return found.encode() if isinstance(found, str) else found


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_all_metadata_goes_from_every_format_into_every_other(source: str, target: str) -> None:
    photo = decode(full_file(source))
    assert photo.pixels.shape == (40, 60, 3)
    assert photo.dpi == DPI[::-1]
    data = encode(photo, target)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (60, 40)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(smooth())).max() <= 6
        exif = image.getexif()
        expected = dict(full_exif(1))
        assert {number: exif.get(number) for number in expected if number not in (EXIF_IFD, GPS_IFD)} == {
            number: value for number, value in expected.items() if number not in (EXIF_IFD, GPS_IFD)
        }
        inner = exif.get_ifd(EXIF_IFD)
        assert (float(inner[EXPOSURE_TIME]), inner[DATE_TAKEN], inner[LENS]) == (
            0.25,
            "2026:11:25 10:11:12",
            "A lens of 50 mm",
        )
        assert (inner[PIXEL_WIDTH], inner[PIXEL_HEIGHT]) == (60, 40)
        assert inner[MAKER_NOTE] == b"MakerNote\0\1\2\3"
        if source != ".tiff":  # Pillow loses it when it writes one
            assert exif.get_ifd(INTEROPERABILITY_IFD)[1] == "R98"
        gps = exif.get_ifd(GPS_IFD)
        assert (gps[LATITUDE_REFERENCE], tuple(map(float, gps[LATITUDE]))) == ("N", (48.0, 8.0, 11.5))
        assert xmp_of(image) == XMP % (1, b"")
        assert image.info["icc_profile"] == profile()
        if target != ".webp":
            assert image.info["dpi"] == pytest.approx(DPI[::-1], abs=0.01)
    again = decode(data)
    assert (again.dpi, again.xmp, again.icc) == (photo.dpi, photo.xmp, photo.icc)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_a_tiff_of_either_byte_order(order: str) -> None:
    def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
        body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
        return struct.pack(f"{order}H", len(entries)) + body + bytes(4)

    samples = make_photo(33, 35, 3).pixels * 255
    picture = tiff_file(np.rint(samples).astype(np.uint8), 2, order, t34665=(1,), t34853=(1,), t42000=(7,))
    start = len(picture) + len(picture) % 2
    picture = picture.ljust(start, b"\0")
    where, speed = struct.pack(f"{order}I", start + 30), struct.pack(f"{order}H", 400)
    exif = directory((EXPOSURE_TIME, 5, 1, where), (SPEED, 3, 1, speed))
    gps = directory((LATITUDE_REFERENCE, 2, 2, b"S"))
    for number, position in ((34665, start), (34853, start + 38)):
        entry = struct.pack(f"{order}HHI", number, 4, 1)
        picture = picture.replace(entry + struct.pack(f"{order}I", 1), entry + struct.pack(f"{order}I", position))
    picture += exif + struct.pack(f"{order}II", 1, 50) + gps
    for target in FORMATS:
        with Image.open(io.BytesIO(encode(decode(picture), target))) as image:
            found = image.getexif()
            assert 42000 not in found  # whatever it means, it is about the old file
            assert (found.get_ifd(EXIF_IFD)[EXPOSURE_TIME], found.get_ifd(EXIF_IFD)[SPEED]) == (1 / 50, 400)
            assert found.get_ifd(GPS_IFD)[LATITUDE_REFERENCE] == "S"


def test_directories_that_point_at_themselves() -> None:
    plain = tiff_file(np.zeros((33, 35, 3), np.uint8), 2, t34665=(1,), t34853=(1,))
    start = struct.unpack_from("<I", plain, 4)[0]
    for number in (34665, 34853):
        entry = struct.pack("<HHI", number, 4, 1)
        plain = plain.replace(entry + struct.pack("<I", 1), entry + struct.pack("<I", start))
    assert decode(plain).pixels.shape == (33, 35, 3)


def test_values_that_ask_for_the_file_many_times_are_left_out() -> None:
    tags = b"".join(struct.pack("<HHII", 40000 + n, 7, 900_000, 8) for n in range(20_000))
    exif = b"II*\0" + struct.pack("<I", 26) + b"\0" * 18
    exif += struct.pack("<HHHIII", 1, 34665, 4, 1, 44, 0) + struct.pack("<H", 20_000) + tags + bytes(4)
    photo = Photo(make_photo(32, 32, 3).pixels, exif=exif.ljust(1_000_000, b"\0"))
    assert len(encode(photo, ".tiff")) < 3_000_000


def test_no_thumbnail_of_the_blurred_picture_is_left() -> None:
    exif = full_exif(1).tobytes().removeprefix(b"Exif\0\0")
    link = struct.unpack_from(">I", exif, 4)[0]
    link += 2 + 12 * struct.unpack_from(">H", exif, link)[0]
    second = len(exif)
    thumbnail = struct.pack(">HHHIIHHIII", 2, 513, 4, 1, second + 30, 514, 4, 1, len(THUMBNAIL), 0)
    exif = exif[:link] + struct.pack(">I", second) + exif[link + 4 :] + thumbnail + THUMBNAIL
    file = io.BytesIO()
    smooth().save(file, "JPEG", exif=b"Exif\0\0" + exif, xmp=XMP % (1, XMP_THUMBNAIL))
    assert THUMBNAIL in file.getvalue()
    photo = decode(file.getvalue())
    for target in FORMATS:
        data = encode(photo, target)
        assert THUMBNAIL not in data
        assert b"/9j/4AAQ" not in data
        with Image.open(io.BytesIO(data)) as image:
            assert image.getexif()[MODEL] == "Its model"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'tiff:Orientation="6"', b'tiff:Orientation="1"'),
        (b"tiff:Orientation = '8'", b"tiff:Orientation = '1'"),
        (b"<tiff:Orientation>3</tiff:Orientation>", b"<tiff:Orientation>1</tiff:Orientation>"),
        (b"<xap:Thumbnails a='b'>/9j</xap:Thumbnails>!", b"!"),
        (b"<xmp:Thumbnails/>!", b"<xmp:Thumbnails/>!"),
        (b"no tags at all", b"no tags at all"),
    ],
)
def test_xmp_does_not_turn_the_photo_again(before: bytes, after: bytes) -> None:
    file = io.BytesIO()
    smooth().save(file, "WEBP", xmp=before)
    assert decode(file.getvalue()).xmp == after


def test_compressed_xmp_of_a_png_is_read() -> None:
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_itxt("XML:com.adobe.xmp", (XMP % (1, b"")).decode(), zip=True)
    smooth().save(file, "PNG", pnginfo=text)
    assert decode(file.getvalue()).xmp == XMP % (1, b"")


def test_metadata_too_large_for_a_jpeg_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo = Photo(make_photo(32, 32, 3).pixels, xmp=XMP % (1, b" " * 66_000))
    with pytest.raises(OutputError, match=r"a\.jpg: .*XMP packet.*too large.*\.png"):
        write(photo, tmp_path / "a.jpg")
    for ending in (".png", ".webp", ".tiff"):
        assert decode(encode(photo, ending)).xmp == photo.xmp
    assert capfd.readouterr() == ("", "")


def test_a_profile_that_is_slightly_wrong_stops_no_result() -> None:
    wrong = b"\0\0\x0a\0" + profile()[4:]  # its length
    photo = Photo(make_photo(32, 32, 3).pixels, icc=wrong)
    for ending in FORMATS:
        with Image.open(io.BytesIO(encode(photo, ending))) as image:
            assert image.info["icc_profile"] == wrong


# Resolution


def jfif(unit: int, across: int, down: int) -> bytes:
    file = io.BytesIO()
    smooth().save(file, "JPEG")
    data = bytearray(file.getvalue())
    struct.pack_into(">BHH", data, 13, unit, across, down)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "dpi"),
    [
        (jfif(1, 300, 240), (300, 240)),
        (jfif(2, 118, 100), (299.72, 254)),
        (jfif(0, 4, 3), None),  # the shape of a pixel
        (jfif(1, 0, 0), None),
        (tiff_file(np.zeros((32, 32, 3), np.uint8), 2), None),
        (tiff_file(np.zeros((32, 32, 3), np.uint8), 2, t282=(300,), t283=(300,)), None),  # no fractions
    ],
)
def test_resolution(data: bytes, dpi: tuple[float, float] | None) -> None:
    photo = decode(data)
    assert photo.dpi == dpi
    for ending in FORMATS:
        written = encode(photo, ending)
        back = decode(written).dpi
        assert back == (dpi if ending != ".jpg" or dpi is None else tuple(map(round, dpi)))
        if dpi is None:
            with Image.open(io.BytesIO(written)) as image:  # a TIFF must have one, so it says that it has no unit
                assert "dpi" not in image.info


@pytest.mark.parametrize("unit", [2, 3])
def test_resolution_of_exif_counts_where_the_format_says_none(unit: int) -> None:
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 100, 50, unit
    file = io.BytesIO()
    smooth().save(file, "JPEG", exif=exif)
    photo = decode(file.getvalue())
    assert photo.dpi == ((100, 50) if unit == 2 else (254, 127))
    chunks = dict(png_chunks(encode(photo, ".png")))
    assert struct.unpack(">IIB", chunks[b"pHYs"]) == ((3937, 1969, 1) if unit == 2 else (10_000, 5000, 1))


def test_exif_that_makes_no_sense_does_not_stop_the_result() -> None:
    for exif in (b"MM\0*\0\0\xff\xff", b"nonsense", b"II*\0\0\0\0\0"):
        photo = Photo(make_photo(32, 32, 3).pixels, exif=exif, dpi=(300, 300))
        for ending in FORMATS:
            assert decode(encode(photo, ending)).pixels.shape == (32, 32, 3)


# Quality of JPEG


def tables(data: bytes) -> list[np.ndarray]:
    return [np.array(table) for table in read_header(data).tables]


def jpeg(quality: int = 75, **options: object) -> bytes:
    file = io.BytesIO()
    smooth().save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("quality", "expected"), [(1, 95), (75, 95), (94, 95), (95, 95), (96, 96), (97, 97), (98, 98), (99, 99), (100, 100)]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_quality_of_a_jpeg_never_falls(quality: int, expected: int, mode: str) -> None:
    file = io.BytesIO()
    smooth().convert(mode).save(file, "JPEG", quality=quality)
    photo = decode(file.getvalue())
    assert photo.jpeg_quality == expected
    result = encode(photo.with_pixels(1 - photo.pixels), ".jpg")
    pairs = list(zip(tables(result), tables(file.getvalue()), strict=True))
    assert len(pairs) == len(mode)
    assert all((own <= source).all() for own, source in pairs)
    with Image.open(io.BytesIO(result)) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * len(mode)


def test_one_fine_entry_of_a_table_is_enough() -> None:
    coarse = [50] * 64
    assert decode(jpeg(qtables=[coarse, coarse])).jpeg_quality == 95
    assert decode(jpeg(qtables=[[1, *coarse[1:]], coarse])).jpeg_quality == 96
    assert decode(jpeg(qtables=[coarse, [*coarse[:5], 1, *coarse[6:]]])).jpeg_quality == 100


def test_other_formats_become_a_jpeg_of_quality_95(tmp_path: Path) -> None:
    photo = read(saved(tmp_path / "a.png", smooth()))
    assert photo.jpeg_quality == 95
    assert tables(encode(photo, ".jpg"))[0].tolist() == tables(jpeg(95))[0].tolist()


# 16 bits, grey and transparency together with metadata


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_16_bits_and_alpha_are_untouched_by_metadata(ending: str, channels: int) -> None:
    plain = make_photo(33, 47, channels, depth=16, alpha=True)
    exif = full_exif(1).tobytes().removeprefix(b"Exif\0\0")
    full = Photo(plain.pixels, plain.alpha, 16, exif, profile("GRAY" if channels == 1 else "RGB "), XMP % (1, b""), DPI)
    data = encode(full, ending)
    back = decode(data)
    np.testing.assert_array_equal(back.pixels, np.broadcast_to(plain.pixels, back.pixels.shape))
    np.testing.assert_array_equal(back.alpha, plain.alpha)
    assert back.alpha is not None
    assert (back.depth, back.alpha.dtype, back.xmp, back.dpi) == (16, np.uint16, full.xmp, DPI)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded[..., 3], plain.alpha)
