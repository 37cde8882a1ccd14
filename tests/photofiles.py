"""Photos and files of photos that tests need, made by other programs or by hand; and a user who may touch none."""

import contextlib
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from blinddeblur.files.photo import Photo

ORIENTATION, MAKE = 0x0112, 0x010F
NOBODY = 65534  # a user who owns nothing


def noise(height: int, width: int, channels: int, depth: int = 8, seed: int = 0) -> np.ndarray:
    dtype = np.uint16 if depth == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 2**depth, (height, width, channels), dtype=dtype)


def make_photo(height: int, width: int, channels: int, *, depth: int = 8, alpha: bool = False, seed: int = 0) -> Photo:
    pixels = noise(height, width, channels, depth, seed) / np.float32(2**depth - 1)
    # No pixel is fully transparent, not even at 8 bits: WebP forgets the colour of those.
    veil = np.maximum(noise(height, width, 1, depth, seed + 1)[..., 0], 2 ** (depth - 8)) if alpha else None
    return Photo(pixels.astype(np.float32), veil, depth)


def smooth(width: int = 60, height: int = 40) -> Image.Image:
    """An RGB picture without symmetry that JPEG hardly changes."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 200, height))
    return Image.fromarray(np.dstack([x, y, 255 - x]).astype(np.uint8))


@functools.cache  # the profile contains the time when it was made
def profile(space: str = "RGB ") -> bytes:
    """A colour profile that claims to be of the colour space given."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data[:16] + space.encode() + data[20:]


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[MAKE] = "A camera"
    return exif.tobytes()


def tags_of(exif: bytes | None) -> dict[int, object]:
    loaded = Image.Exif()
    loaded.load(exif)
    return dict(loaded)


def tiff_file(samples: np.ndarray, photometric: int, order: str = "<", **extra: tuple[int, ...]) -> bytes:
    """An uncompressed TIFF file of samples (height, width, channels), made by hand. extra: t<number>=values."""
    height, width, channels = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = {256: (width,), 257: (height,), 258: (samples.dtype.itemsize * 8,) * channels, 259: (1,)}
    tags |= {262: (photometric,), 273: (8,), 277: (channels,), 278: (height,), 279: (len(data),)}
    tags |= {int(name[1:]): values for name, values in extra.items()}
    start = 8 + len(data) + len(data) % 2
    pool_start = start + 2 + 12 * len(tags) + 4
    entries, pool = b"", b""
    for number, values in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}I", *values)
        field = raw
        if len(raw) > 4:
            field = struct.pack(f"{order}I", pool_start + len(pool))
            pool += raw
        entries += struct.pack(f"{order}HHI", number, 4, len(values)) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + data.ljust(start - 8, b"\0") + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + pool


def saved(path: Path, image: Image.Image, format: str | None = None, **options: object) -> Path:
    image.save(path, format, **options)
    return path


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions mean nothing to root, so root becomes nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
