"""What became of a batch of photos, as one web page that needs nothing but itself: no network, no other file.

Previews are read back from the photos and results on the disk, one after the other, while the page is written.
"""

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blinddeblur.commands.outcome import PhotoOutcome
from blinddeblur.commands.plan import Job
from blinddeblur.errors import BlindDeblurError
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.names import kernel_paths
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import Together, check_free
from blinddeblur.pictures.canvas import enlarged, fitted, of_kernel

SIDE = 1600  # pixels of the long side of a preview: it fills a screen, and takes about half a megabyte
QUALITY = 85  # of a preview's JPEG; artefacts stay below what a restoration changes
KERNEL_SIDE = 256  # pixels of the kernel's picture; twice the largest kernel, 127
GREY = 0.5  # what shows through transparent pixels
MADE_BY = '<meta name="generator" content="blinddeblur">'  # what a page of ours is known by

Entry = tuple[Job, PhotoOutcome | str | None]  # what became of a photo: why it failed; None if it was finished earlier


@dataclass(frozen=True)
class Shown:
    """A picture in the page: its data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def write(path: Path, entries: Sequence[Entry], seconds: float, *, overwrite: bool = False) -> None:
    """Write the page: in all, and for each photo before and after under a slider, its kernel, and its figures.

    Whatever cannot be read any more is left out of the page, which is written as a whole or not at all. Raises
    OutputError where the file exists and may not be overwritten, or the system refuses.

    Args:
        path: of the page; missing folders are created.
        entries: one for each photo, in the order of the page.
        seconds: that all photos took together.
        overwrite: whether an existing file is replaced.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("blinddeblur", "commands")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    # The page asks for pictures when it comes to them, so that never more than those of one photo are in memory.
    called = {"entries": entries, "seconds": seconds, "made_by": MADE_BY, "preview": _preview, "kernel": _kernel}
    parts = pages.get_template("report.html.j2").generate(called)
    with Together(overwrite=overwrite) as files, files.open(path) as file:
        # A name that is no Unicode, as Linux allows, is shown with question marks.
        file.writelines(part.encode(errors="replace") for part in parts)


def check(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if the page cannot be written there; an earlier one of this program may be replaced."""
    with suppress(OSError, ValueError), path.open(encoding="utf-8", errors="replace") as file:
        overwrite = overwrite or MADE_BY in file.read(1000)
    check_free(path, overwrite=overwrite)


def _preview(path: Path) -> Shown | None:
    """A photo, shrunk, on grey where it is transparent; None where it cannot be read."""
    with suppress(BlindDeblurError):
        photo = decoding.read(path)
        pixels = photo.stored
        if photo.alpha is not None:
            opacity = photo.alpha[..., np.newaxis] / np.float32(np.iinfo(photo.alpha.dtype).max)
            pixels = GREY + opacity * (photo.pixels - GREY)
        # Colours without their profile would be others.
        return _shown(Photo(fitted(pixels, SIDE), icc=photo.icc, jpeg_quality=QUALITY), "jpeg")
    return None


def _kernel(stem: Path) -> Shown | None:
    """The kernel of a photo, enlarged; None where it cannot be read."""
    with suppress(BlindDeblurError):
        values = kernel_files.read_kernel(kernel_paths(stem)[1])
        return _shown(Photo(enlarged(of_kernel(values), KERNEL_SIDE)), "png")
    return None


def _shown(picture: Photo, kind: str) -> Shown:
    height, width = picture.stored.shape[:2]
    data = base64.b64encode(encoding.encode(picture, f".{kind}")).decode()
    return Shown(f"data:image/{kind};base64,{data}", width, height)
