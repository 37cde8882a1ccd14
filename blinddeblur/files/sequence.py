"""Frames of one scene: pictures, pages of a TIFF, an animation or a video -> arrays of one shape and type.

A frame that cannot be read is left out and named; all else that does not fit together is refused in a sentence.
"""

import glob
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from blinddeblur.errors import PhotoError
from blinddeblur.files import decoding, tags
from blinddeblur.files.headers import format_of, is_animation
from blinddeblur.files.names import is_ours, real_name
from blinddeblur.files.photo import MAXIMUM_PIXELS, READABLE, Array, Photo, as_integers
from blinddeblur.files.quiet import silent_opencv
from blinddeblur.files.together import reason

MOST_FRAMES = 200
MOST_BYTES = 4 * 2**30  # of all frames: 200 of 1920x1080 pixels and 16 bits take 2.5 GB
FASTEST = 1000  # frames per second that are believed
ENDS_EARLY = 0.9  # of the frames that a video says it has: with fewer it is cut off, more are a matter of counting
NAMED = 3  # frames that a sentence names at most
HEAD = 256  # bytes of a file that tell pictures from videos

_PATTERN = re.compile(r"[*?[]")
_NOT_PLAYED = (
    "The file is no picture and no video that can be played: it is damaged or of a rare kind. Convert it to MP4, or "
    "save its frames as PNGs."
)


@dataclass(frozen=True, eq=False)
class Film:
    """Frames of one scene, in their order.

    Attributes:
        frames: arrays (height, width, channels) of one shape and type, uint8 or uint16; one channel is grey, three are
            RGB.
        names: of each: that of its file, or its number.
        like: the first frame, opaque: what a restored picture is written like.
        fps: frames per second where the source says it, else None.
        left_out: the name of each frame that could not be read, and why.
        warnings: sentences on what was left out or changed.
    """

    frames: list[Array]
    names: tuple[str, ...]
    like: Photo
    fps: float | None
    left_out: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """Where frames come from.

    Attributes:
        label: what sentences name.
        frames: the name of each, and what reads it or raises PhotoError; an unread one costs little.
        number: of frames; None where only the end shows it.
        fps: frames per second, if known.
        notes: sentences that are added while frames are read.
    """

    label: str
    frames: Iterator[tuple[str, Callable[[], Photo]]]
    number: int | None
    fps: float | None = None
    notes: list[str] = field(default_factory=list)


def find(inputs: Iterable[Path]) -> list[Path]:
    """The files that are meant, each once, in the natural order of their names: 2 before 10.

    Args:
        inputs: files; folders, whose pictures are meant but for hidden ones and our own results; patterns with * ? [ ].

    Raises:
        PhotoError: a folder or a pattern without pictures.
        UsageError: a name that no system has.
    """
    found: dict[str, Path] = {}
    for path in (path for given in inputs for path in _files_of(given)):
        found.setdefault(real_name(path), path)
    return sorted(found.values(), key=_natural)


def read(
    paths: list[Path],
    chosen: slice = slice(None),
    most_pixels: int = MAXIMUM_PIXELS,
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
    most_bytes: int = MOST_BYTES,
) -> Film:
    """The frames of one file (a video, an animation, the pages of a TIFF, a single picture), or of one picture each.

    Raises PhotoError where there is no frame, none that can be read, or too many; or where they are of different sizes
    or too large.

    Args:
        paths: at least one, see find.
        chosen: which frames, counted from 0 and without negative numbers.
        most_pixels: a larger frame is refused.
        progress: told how many are read.
        most_bytes: frames that take more memory together are refused.
    """
    source = _of_pictures(paths, most_pixels) if len(paths) > 1 else _of_file(paths[0], most_pixels)
    number = None if source.number is None else len(range(source.number)[chosen])
    if number is not None:
        _check_number(number, source)
    read: dict[str, Photo] = {}
    left_out: dict[str, str] = {}
    size = 0
    for name, frame in islice(source.frames, chosen.start, chosen.stop, chosen.step):
        _check_number(len(read) + len(left_out) + 1, source)
        try:
            read[name] = frame()
        except PhotoError as error:
            left_out[name] = str(error)
            continue
        size += read[name].stored.nbytes
        _check_bytes(size, source.label, most_bytes)
        progress("frames", len(read) + len(left_out), number)
    if not read:
        raise PhotoError(_nothing_read(source, list(left_out.values())))
    fps = None if source.fps is None else source.fps / (chosen.step or 1)
    return _film(source, read, left_out, fps, most_bytes)


def _files_of(given: Path) -> list[Path]:
    real_name(given)  # it is a name
    if os.path.isdir(given):
        try:
            names = os.listdir(given)
        except OSError as error:
            raise PhotoError(f"{given}: The folder cannot be read, because {reason(error)}.") from error
        pictures = (given / name for name in names if not name.startswith("."))
        found = [path for path in pictures if path.suffix.lower() in READABLE and _is_frame(path)]
        if not found:
            raise PhotoError(
                f"{given}: There is no picture in this folder. Pictures end in {', '.join(READABLE)}; name a "
                "video or an animation itself."
            )
        return found
    if os.path.lexists(given) or not _PATTERN.search(str(given)):
        return [given]
    found = [path for path in map(Path, glob.glob(str(given), recursive=True)) if _is_frame(path)]
    if not found:
        raise PhotoError(f"{given}: No file has a name like this. Check the pattern and the folder.")
    return found


def _is_frame(path: Path) -> bool:
    return path.is_file() and not is_ours(path)


def _natural(path: Path) -> tuple[list[str | int], str]:
    """What sorts names as people count. Text and numbers alternate, so that like meets like."""
    parts = re.split("([0-9]+)", str(path).casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], str(path)


def _of_pictures(paths: list[Path], most_pixels: int) -> _Source:
    names = Counter(path.name for path in paths)
    frames = (
        (path.name if names[path.name] == 1 else str(path), partial(decoding.read, path, most_pixels)) for path in paths
    )
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return _Source(folder, frames, len(paths))


def _of_file(path: Path, most_pixels: int) -> _Source:
    with decoding.naming(str(path)):
        decoding.check_file(path)
        with path.open("rb") as file:
            format = format_of(file.read(HEAD))
        if format is None and path.suffix.lower() not in READABLE:
            return _of_video(path, most_pixels)
        data = decoding.read_bytes(path, most_pixels)
        if is_animation(data):
            return _of_animation(str(path), data, most_pixels)
        pages = tags.pages(data) if format == "TIFF" else []
    return _of_pages(str(path), pages, most_pixels) if len(pages) > 1 else _of_pictures([path], most_pixels)


def _of_pages(label: str, pages: list[tags.Directory], most_pixels: int) -> _Source:
    def page(number: int) -> Photo:
        with decoding.naming(f"{label}, page {number}"):
            return decoding.decode(pages[number].alone(), most_pixels)

    return _Source(label, ((f"page {number}", partial(page, number)) for number in range(len(pages))), len(pages))


def _of_animation(label: str, data: bytes, most_pixels: int) -> _Source:
    """A GIF, or a PNG or WebP that moves; 8 bits. Pillow raises errors of every kind."""
    from PIL import GifImagePlugin, PngImagePlugin, WebPImagePlugin

    gif, png, webp = GifImagePlugin.GifImageFile, PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile
    plugins: dict[str | None, Any] = {"GIF": gif, "PNG": png, "WebP": webp}

    def frame(index: int) -> Photo:
        try:
            with warnings.catch_warnings(action="ignore"):
                animation.seek(index)
                return _photo(np.asarray(animation.convert("RGBA")))
        except Exception as error:
            raise PhotoError(f"{label}, frame {index}: The picture cannot be decoded: the file is damaged.") from error

    try:
        with warnings.catch_warnings(action="ignore"):
            # Not Image.open, which warns of large pictures.
            animation = plugins[format_of(data)](io.BytesIO(data))
            width, height = animation.size
            decoding.check_size(width, height, most_pixels)
            number, milliseconds = animation.n_frames, animation.info.get("duration", 0)
    except PhotoError:
        raise
    except Exception as error:
        raise PhotoError(_NOT_PLAYED) from error
    frames = ((f"frame {index}", partial(frame, index)) for index in range(number))
    return _Source(label, frames, number, _believed(1000 / milliseconds if milliseconds else 0))


def _of_video(path: Path, most_pixels: int) -> _Source:
    with silent_opencv():
        # By its whole path, which no protocol of a network begins with.
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise PhotoError(_NOT_PLAYED)
    width, height, number, fps = (
        capture.get(asked)
        for asked in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
    )
    decoding.check_size(int(width), int(height), most_pixels)
    notes: list[str] = []

    def frames() -> Iterator[tuple[str, Callable[[], Photo]]]:
        index = 0
        while _silently(capture.grab):
            yield f"frame {index}", partial(frame, index)
            index += 1
        if index < ENDS_EARLY * number:
            notes.append(f"{path}: The video ends after {index} of {number:.0f} frames. Copy it again from its source.")

    def frame(index: int) -> Photo:
        decoded, samples = _silently(capture.retrieve)
        if not decoded:
            raise PhotoError(f"{path}, frame {index}: The picture cannot be decoded: the file is damaged.")
        return _photo(samples[..., ::-1])

    return _Source(str(path), frames(), None, _believed(fps), notes)


def _silently(call: Callable[[], Any]) -> Any:
    with silent_opencv():
        return call()


def _photo(samples: Array) -> Photo:
    """Of (height, width, 3 or 4) samples, RGB or RGBA of 8 bits."""
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    return Photo(np.ascontiguousarray(samples[..., :3]), alpha)


def _believed(fps: float) -> float | None:
    return fps if 0 < fps <= FASTEST else None


def _check_number(number: int, source: _Source) -> None:
    """number: of chosen frames, or how many there are at least."""
    if number > MOST_FRAMES:
        there_are = f"more than {MOST_FRAMES}" if source.number is None else str(number)
        step = 2 if source.number is None else -(-number // MOST_FRAMES)
        raise PhotoError(
            f"{source.label}: These are {there_are} frames, and the limit is {MOST_FRAMES}. Choose some: --frames "
            f"0:{MOST_FRAMES} takes the first, --frames ::{step} one of {step}."
        )
    if number == 0:
        raise PhotoError(
            f"{source.label}: --frames leaves none of {source.number} frames. They are counted from 0, the end is not "
            "included."
        )


def _check_bytes(size: int, label: str, most: int) -> None:
    if size > most:
        raise PhotoError(
            f"{label}: The frames take more than {most / 2**30:.3g} GB of memory. Choose fewer, such as with "
            "--frames ::2, or make them smaller."
        )


def _nothing_read(source: _Source, reasons: list[str]) -> str:
    if not reasons:
        return f"{source.label}: No frame of the video can be read. Convert it to MP4, or choose other --frames."
    return reasons[0] if len(reasons) == 1 else f"None of {len(reasons)} frames can be read. {reasons[0]}"


def _film(
    source: _Source, read: dict[str, Photo], left_out: dict[str, str], fps: float | None, most_bytes: int
) -> Film:
    """The frames in one shape and type: grey ones become colour among colours, and those of 8 bits 16 among such."""
    pictures = list(read.values())
    _check_sizes(source.label, read)
    first, channels = pictures[0], max(picture.stored.shape[2] for picture in pictures)
    depth = max(picture.depth for picture in pictures)
    _check_bytes(len(read) * first.stored[..., 0].size * channels * depth // 8, source.label, most_bytes)
    notes = [f"{why} This frame is left out." for why in left_out.values()] + source.notes
    kinds: dict[str, Callable[[Photo], bool]] = {
        "Grey among frames in colour, and taken as colour": lambda p: p.stored.shape[2] != channels,
        "Of 8 bits among frames of 16, and taken as 16": lambda p: p.depth != depth,
        "Transparent in places, which the restored picture will not be": _is_clear,
        "With a colour profile other than that of the first frame, which stays": lambda p: p.icc != first.icc,
    }
    for sentence, differs in kinds.items():
        those = [name for name, picture in read.items() if differs(picture)]
        if those:
            notes.append(f"{sentence}: {_listed(those)}.")
    if len(read) == 1:
        notes.append(
            "The tilt of one frame cannot be told from the scene's shape: what is bent stays bent. Give more frames."
        )
    frames = [
        np.broadcast_to(as_integers(picture.stored, depth), (*picture.stored.shape[:2], channels))
        for picture in pictures
    ]
    like = replace(first, stored=frames[0], alpha=None, depth=depth)
    return Film(frames, tuple(read), like, fps, left_out, tuple(notes))


def _check_sizes(label: str, read: dict[str, Photo]) -> None:
    sizes: dict[tuple[int, ...], list[str]] = {}
    for name, picture in read.items():
        sizes.setdefault(picture.stored.shape[1::-1], []).append(name)
    if len(sizes) == 1:
        return
    (width, height), most = max(sizes.items(), key=lambda size: len(size[1]))
    others = ", ".join(f"{w}x{h}: {_listed(names)}" for (w, h), names in sizes.items() if (w, h) != (width, height))
    raise PhotoError(
        f"{label}: The frames are of different sizes. {len(most)} of {len(read)} are {width}x{height} pixels; but "
        f"{others}. Leave these out, or bring all frames to one size."
    )


def _is_clear(picture: Photo) -> bool:
    return picture.alpha is not None and bool((picture.alpha < np.iinfo(picture.alpha.dtype).max).any())


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
