"""Photos and files of photos that tests need, made by other programs or by hand; and a user who may touch none."""

import contextlib
import functools
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from blinddeblur.files.headers import png_file
from blinddeblur.files.photo import Photo

ORIENTATION, MAKE = 0x0112, 0x010F
INFLATED = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\1\0\0\0")  # numbers, by an accident
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


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The file after one to three accidents: cut off, bits flipped, blocks exchanged or filled, numbers inflated."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        size = len(changed)
        # Half of all accidents strike the first bytes, where headers are.
        place = int(rng.integers(min(size, 200) if rng.random() < 0.5 else size))
        length = int(rng.integers(1, 40))
        match rng.integers(7):
            case 0:
                del changed[max(place, 16) :]
            case 1:
                for position in rng.integers(size, size=rng.integers(1, 10)):
                    changed[position] ^= 1 << rng.integers(8)
            case 2:
                changed[place] ^= 1 << rng.integers(8)
            case 3:
                other = int(rng.integers(size))
                block = changed[other : other + length]
                changed[other : other + length] = changed[place : place + length]
                changed[place : place + length] = block
            case 4:
                changed[place : place + 4] = rng.choice(INFLATED)
            case 5:
                changed[place : place + length] = bytes([rng.integers(256)]) * length
            case _:
                del changed[place : place + length]
    return bytes(changed)


def repaired(data: bytes) -> bytes:
    """A damaged PNG with checksums that are right again: otherwise none of them would reach the decoder."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        if position + 12 + length > len(data):
            break
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return png_file(chunks) + data[position:]


def run_apart(module: str, function: str, folder: Path, first: int, count: int, limit: float = 600) -> str:
    """What a function of a test module prints in a process of its own, so that a crash of a library is seen.

    It is given the folder, the first seed and how many; it leaves the seed at which it is in the folder.
    """
    program = f"import sys; from pathlib import Path; from {module} import {function}; "
    program += f"{function}(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(folder), str(first), str(count)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "files"), *sys.path])},
        check=False,
    )
    seed = (folder / "seed").read_text() if (folder / "seed").exists() else "none"
    assert (done.returncode, done.stderr) == (0, ""), f"at seed {seed}: {done.returncode}\n{done.stderr[-2000:]}"
    assert done.stdout.count("\n") == 1, f"something was printed: {done.stdout[:500]}"
    return done.stdout


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
