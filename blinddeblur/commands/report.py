"""What became of a batch of photos, as one web page that needs nothing but itself: no network, no other file.

Previews are read back from the photos and results on the disk, one after the other, while the page is written.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blinddeblur.errors import BlindDeblurError
from blinddeblur.files import decoding, kernel_files
from blinddeblur.files.together import Together, check_free
from blinddeblur.pictures.comparison import enlarged, fitted

SIDE = 1600  # pixels of the long side of a preview: it fills a screen, and takes about half a megabyte
QUALITY = 85  # of a preview's JPEG: artefacts stay below what a restoration changes
KERNEL_SIDE = 256  # pixels of the kernel's picture; twice the largest kernel, 127
GREY = 0.5  # what shows through transparent pixels


@dataclass(frozen=True)
class Entry:
    """What became of one photo.

    Attributes:
        source: the blurred photo.
        restored: the restored photo.
        kernel: the array of its kernel (.npy).
        facts: what --json says of it; None if it failed, or was skipped because it was finished earlier.
        error: the sentence that says why it failed; None if it did not.
    """

    source: Path
    restored: Path
    kernel: Path
    facts: dict[str, Any] | None = None
    error: str | None = None


def write(path: Path, entries: Sequence[Entry], seconds: float, *, overwrite: bool = False) -> None:
    """Write the page: in all, and for each photo before and after under a slider, its kernel, and its figures.

    Whatever cannot be read any more is left out of the page, which is written as a whole or not at all.

    Args:
        path: of the page; missing folders are created.
        entries: one for each photo, in the order of the page.
        seconds: that all photos took together.
        overwrite: whether an existing file is replaced.

    Raises:
        OutputError: the file exists and may not be overwritten, or the system refuses.
    """
    with Together(overwrite=overwrite) as files, files.open(path) as file:
        # A name that is no Unicode, as Linux allows, is shown with question marks.
        file.writelines(part.encode(errors="replace") for part in _page(entries, seconds))


def check(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if the page cannot be written there; an earlier one of this program may be replaced."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            overwrite = overwrite or MADE_BY in file.read(1000)
    except (OSError, ValueError):
        pass  # there is none
    check_free(path, overwrite=overwrite)


def _page(entries: Sequence[Entry], seconds: float) -> Iterator[str]:
    yield HEAD
    yield f"<header><h1>blinddeblur</h1><p>{_summary(entries, seconds)}</p></header>\n<main>\n"
    for entry in entries:
        yield _article(entry)
    yield f"</main>\n<script>{SCRIPT}</script>\n</html>\n"


def _summary(entries: Sequence[Entry], seconds: float) -> str:
    failed = sum(entry.error is not None for entry in entries)
    skipped = sum(entry.error is None and entry.facts is None for entry in entries)
    counts = f"{len(entries) - failed - skipped} restored, {failed} failed, {skipped} skipped"
    return f"{counts}, {seconds:.1f} seconds"


def _article(entry: Entry) -> str:
    name = escape(entry.source.name)
    before = _preview(entry.source)
    after = None if entry.error else _preview(entry.restored)
    parts = [f'<h2 title="{escape(str(entry.source))}"><bdi>{name}</bdi></h2>\n', _pictures(name, before, after)]
    if entry.error:
        parts.append(f'<p class="error"><strong>Failed.</strong> {escape(entry.error)}</p>\n')
    else:
        parts.append(f'<div class="facts">{_kernel(entry.kernel)}{_figures(entry.facts)}</div>\n')
    return f"<article>\n{''.join(parts)}</article>\n"


def _pictures(name: str, before: "Preview | None", after: "Preview | None") -> str:
    """A slider; or the one picture that there is; or a word that there is none."""
    shown = before or after
    if shown is None:
        return '<p class="note">There is no preview: the photo cannot be read.</p>\n'
    size = f'style="--width: {shown.width}; --height: {shown.height}"'
    if before is None or after is None:
        which = "before" if before else "after"
        return (
            f'<figure {size}><img src="{shown.uri}" alt="{name}, {which}"><figcaption>{which}</figcaption></figure>\n'
        )
    return (
        f'<figure class="slider" {size}>'
        f'<img src="{before.uri}" alt="{name}, before">'
        f'<img class="after" src="{after.uri}" alt="{name}, after">'
        '<figcaption>before</figcaption><figcaption class="after">after</figcaption><span class="handle"></span>'
        '<input type="range" min="0" max="100" step="any" value="50" autocomplete="off"'
        f' aria-label="{name}: how much is shown as before"></figure>\n'
    )


def _kernel(path: Path) -> str:
    try:
        picture = enlarged(kernel_files.read_kernel(path), KERNEL_SIDE)
    except BlindDeblurError:
        return ""
    height, width = picture.shape[:2]
    shown = f'<img src="{_uri(".png", picture)}" width="{width}" height="{height}" alt="Blur kernel">'
    return f'<figure class="kernel">{shown}<figcaption>kernel</figcaption></figure>'


FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "noise": lambda facts: f"{255 * facts['sigma']:.2f}/255",
    "kernel size": lambda facts: f"{facts['kernel_size']} px",
    "kernel extent": lambda facts: "{} × {} px".format(*facts["kernel_extent"]),
    "residual": lambda facts: f"{255 * facts['residual']:.2f}/255",
    "confidence": lambda facts: "none given" if facts["confidence"] is None else f"{facts['confidence']:.2f}",
    "seconds": lambda facts: f"{facts['seconds']:.1f}",
    "method": lambda facts: f"{facts['method']}, {facts['steps']} steps",
    "prior": lambda facts: str(facts["prior"]),
    "seed": lambda facts: str(facts["seed"]),
}


def _figures(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return '<p class="note">Skipped: it was finished earlier.</p>'
    rows = "".join(f"<dt>{label}</dt><dd>{escape(shown(facts))}</dd>" for label, shown in FIGURES.items())
    sharp = '<p class="note">No blur was found: the photo is unchanged.</p>' if facts["sharp"] else ""
    warnings = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in facts["warnings"])
    return f"<dl>{rows}</dl>{sharp}{warnings}"


@dataclass(frozen=True)
class Preview:
    """A small JPEG as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def _preview(path: Path) -> Preview | None:
    """None where the file is missing or unreadable."""
    try:
        photo = decoding.read(path)
    except BlindDeblurError:
        return None
    pixels: NDArray[np.floating] = photo.pixels
    if photo.alpha is not None:
        opacity = photo.alpha[..., np.newaxis] / np.float32(np.iinfo(photo.alpha.dtype).max)
        pixels = GREY + opacity * (pixels - GREY)
    picture = fitted(pixels, SIDE)
    height, width = picture.shape[:2]
    return Preview(_uri(".jpg", picture, photo.icc), width, height)


def _uri(ending: str, picture: NDArray[np.uint8], icc: bytes | None = None) -> str:
    """The picture, (H, W, 1 or 3), as PNG or JPEG; the colour profile with it, since colours would else be others."""
    kinds, blocks = ([cv2.IMAGE_METADATA_ICCP], [np.frombuffer(icc, np.uint8)]) if icc else ([], [])
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if ending == ".jpg" else []
    _, data = cv2.imencodeWithMetadata(ending, np.ascontiguousarray(picture[..., ::-1]), kinds, blocks, settings)
    kind = "jpeg" if ending == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


MADE_BY = '<meta name="generator" content="blinddeblur">'  # by which a page of ours is known again

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="generator" content="blinddeblur">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>blinddeblur: report</title>
<style>
:root { --ground: #fff; --text: #1c1c1e; --quiet: #5f6368; --line: #dcdde0; --warning: #8a5a00; --error: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161618; --text: #ececee; --quiet: #a0a3a8; --line: #37383c; --warning: #f0b65a; --error: #ff8a80; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 90rem; padding: 0 1rem 3rem;
  background: var(--ground); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
}
header { padding: 1.5rem 0 1rem; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { grid-column: 1 / -1; margin: 0; font-size: 1.1rem; overflow-wrap: anywhere; }
p, dl, figure { margin: 0; }
header p, .note, dt, .kernel figcaption { color: var(--quiet); }
article { display: grid; gap: 1rem 2rem; padding: 1.5rem 0; border-top: 1px solid var(--line); }
article > figure {
  position: relative; overflow: hidden; aspect-ratio: var(--width) / var(--height);
  width: min(100%, 80vh * var(--width) / var(--height), max(20rem, 1px * var(--width)));
}
article > figure img { position: absolute; width: 100%; height: 100%; object-fit: contain; }
article > figure figcaption {
  position: absolute; top: .5rem; left: .5rem; padding: 0 .5rem; border-radius: 1rem;
  background: #000a; color: #fff; font-size: .8rem;
}
article > figure figcaption.after { left: auto; right: .5rem; }
.slider { --at: 50%; }
.slider img.after { clip-path: inset(0 0 0 var(--at)); }
.slider .handle { position: absolute; inset: 0 auto 0 var(--at); width: 2px; margin-left: -1px; background: #fff; }
.slider .handle::after {
  content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 2.25rem; height: 2.25rem; translate: -50% -50%;
  display: grid; place-items: center; border-radius: 50%; background: #fff; color: #1c1c1e; box-shadow: 0 0 4px #0008;
}
/* The range lies invisible over the photo, half a thumb wider on each side: the middle of its thumb is the handle. */
.slider input {
  position: absolute; inset: 0 -1.5rem; width: calc(100% + 3rem); height: 100%; margin: 0; opacity: 0;
  appearance: none; -webkit-appearance: none; cursor: ew-resize; touch-action: pan-y;
}
.slider input::-webkit-slider-thumb { -webkit-appearance: none; width: 3rem; height: 80vh; }
.slider input::-moz-range-thumb { width: 3rem; height: 80vh; border: 0; }
.slider:has(:focus-visible) { outline: 3px solid #1a73e8; outline-offset: 2px; }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-content: flex-start; }
.kernel img { display: block; image-rendering: pixelated; border: 1px solid var(--line); }
.kernel figcaption { font-size: .8rem; }
dl { display: grid; grid-template-columns: auto auto; gap: .1rem 1rem; align-content: start; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.facts p { flex-basis: 100%; }
.warning { color: var(--warning); }
.error { color: var(--error); overflow-wrap: anywhere; }
@media (min-width: 60rem) { article { grid-template-columns: minmax(0, 1fr) 17rem; } }
</style>
"""

SCRIPT = """
document.addEventListener("input", ({ target }) => target.parentElement.style.setProperty("--at", target.value + "%"));
"""
