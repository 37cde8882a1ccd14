"""The page of a batch: complete, self-contained, harmless whatever files are called, and usable in a browser."""

import base64
import json
import os
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from scenes import sharp, streak

from blinddeblur.commands.outcome import PhotoOutcome
from blinddeblur.commands.plan import Job
from blinddeblur.commands.report import Entry, write
from blinddeblur.errors import OutputError
from blinddeblur.files import encoding, kernel_files
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import write_together

FACTS: dict[str, Any] = {
    "recording": None,
    "seconds": 12.34,
    "sigma": 0.01,
    "residual": 0.02,
    "sharp": False,
    "warnings": ("Look at <this> & that.",),
    "seed": 7,
    "method": "fast",
    "steps": 12,
    "prior": "photo",
    "prior_sha256": None,
    "kernel_size": 15,
    "kernel_extent": (9, 5),
    "comparison": None,
    "kernel_map": None,
    "varying": False,
    "confidence": 0.875,
    "expected_gain": 2.5,
    "hopeless": False,
    "kernel_prior": None,
}
HOSTILE = "<script>document.title='taken'</script>\"' onload='x' & ä 日本.png"


class Page(HTMLParser):
    """What a browser would see: text, and the attributes of every element."""

    def __init__(self, html: str | Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(html.read_text(encoding="utf-8") if isinstance(html, Path) else html)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("style", "script"):
            self.words.append(data)

    def pictures(self, kind: str) -> list[np.ndarray[Any, Any]]:
        """Every embedded picture of a kind, as OpenCV decodes it."""
        prefix = f"data:image/{kind};base64,"
        sources = [given["src"] for tag, given in self.elements if tag == "img"]
        data = [base64.b64decode(s.removeprefix(prefix), validate=True) for s in sources if s.startswith(prefix)]
        return [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED) for d in data]


def entry(folder: Path, name: str = "photo.png", shape: tuple[int, int, int] = (60, 90, 3), depth: int = 8) -> Entry:
    """A photo that was restored, with its files on the disk."""
    stem = folder / Path(name).stem
    source, restored = folder / name, folder / f"{stem.name}.deblurred.png"
    encoding.write(Photo(sharp(*shape), depth=depth), source)
    encoding.write(Photo(sharp(*shape, seed=1), depth=depth), restored)
    files = kernel_files.kernel_files(streak(), stem)
    write_together(files.items(), overwrite=False)
    preview, kernel = files
    outcome = PhotoOutcome(input=source, restored=restored, kernel_preview=preview, kernel=kernel, **FACTS)
    return Job(source, restored, stem), outcome


def test_the_page_tells_what_became_of_each_photo(tmp_path: Path) -> None:
    job, outcome = entry(tmp_path)
    failed = replace(job, source=tmp_path / "broken.png"), "broken.png: The file is <empty>."
    write(tmp_path / "new" / "report.html", [(job, outcome), failed, (job, None), (job, None)], 93.21)
    page = Page(tmp_path / "new" / "report.html")
    assert "1 restored, 1 failed, 2 skipped, 93.2 seconds" in page.text
    shown = ["2.55/255", "15 px", "9 × 5 px", "5.10/255", "0.88", "12.3", "fast, 12 steps", "photo", "7"]
    assert [word for word in page.words if word in shown] == shown
    assert "Look at <this> & that." in page.text
    assert "broken.png: The file is <empty>." in page.text
    assert page.text.count("finished earlier") == 2
    sliders = [given for tag, given in page.elements if tag == "input"]
    assert [given["type"] for given in sliders] == ["range"] * 3
    before, after, *_ = page.pictures("jpeg")
    assert np.abs(before[..., ::-1] - 255 * sharp(60, 90, 3)).mean() < 5
    assert np.abs(after[..., ::-1] - 255 * sharp(60, 90, 3, seed=1)).mean() < 5
    kernel = page.pictures("png")[0]
    assert kernel.shape == (255, 255)
    assert np.abs(kernel[8::17, 8::17] - 255 * streak() / streak().max()).max() <= 0.51
    assert os.listdir(tmp_path / "new") == ["report.html"]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "report.html", [entry(tmp_path)], 1)
    page = Page(tmp_path / "report.html")
    linked = [given.get(name, "data:") for _, given in page.elements for name in ("src", "href", "srcset", "action")]
    assert all(link.startswith("data:") for link in linked)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(word in text for word in ("http:", "https:", "url(", "@import", "<link"))
    assert "default-src 'none'" in text


def test_names_and_messages_are_text_and_never_markup(tmp_path: Path) -> None:
    (job, outcome), nasty = entry(tmp_path), HOSTILE.replace("/", "∕")
    write(tmp_path / "plain.html", [(job, outcome), (job, "no")], 1)
    hostile = [entry(tmp_path, nasty), (replace(job, source=Path(HOSTILE)), HOSTILE)]
    write(tmp_path / "report.html", hostile, 1)
    page, twin = Page(tmp_path / "report.html"), Page(tmp_path / "plain.html")
    assert nasty in page.words
    assert HOSTILE in page.text
    labels = [given["aria-label"] for tag, given in page.elements if tag == "input"]
    assert labels == [f"{nasty}: how much is shown as before"]
    missing = 1  # the photo of the failure does not exist here, so its picture and frame are replaced by a sentence
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert sum(tag == "img" for tag, _ in page.elements) == sum(tag == "img" for tag, _ in twin.elements) - missing
    assert {name for _, given in page.elements for name in given} == {n for _, given in twin.elements for n in given}


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_no_unicode_is_shown_nevertheless(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    job, outcome = entry(tmp_path)
    write(tmp_path / "report.html", [(replace(job, source=tmp_path / name), outcome)], 1)
    assert "caf?.png" in Page(tmp_path / "report.html").words


def test_a_preview_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    job, outcome = entry(tmp_path)
    for name in ("damaged.png", "damaged.kernel.npy"):
        (tmp_path / name).write_bytes(b"no picture")
    gone = tmp_path / "gone.png"
    broken = [
        replace(job, source=gone),
        replace(job, restored=tmp_path / "damaged.png"),
        replace(job, source=gone, restored=gone, stem=tmp_path / "damaged"),
    ]
    write(tmp_path / "report.html", [(each, outcome) for each in broken], 1)
    page = Page(tmp_path / "report.html")
    alternatives = [given["alt"] for tag, given in page.elements if tag == "img"]
    assert alternatives == ["gone.png, after", "Blur kernel", "photo.png, before", "Blur kernel"]
    assert page.text.count("There is no preview") == 1
    assert page.text.count("fast, 12 steps") == 3


def test_a_failed_photo_is_not_shown_with_a_result_of_an_earlier_run(tmp_path: Path) -> None:
    job, _ = entry(tmp_path)
    write(tmp_path / "report.html", [(job, "Too small.")], 1)
    page = Page(tmp_path / "report.html")
    assert [given["alt"] for tag, given in page.elements if tag == "img"] == ["photo.png, before"]


def test_large_previews_are_shrunk_and_16_bits_become_8(tmp_path: Path) -> None:
    write(tmp_path / "report.html", [entry(tmp_path, shape=(40, 3200, 1), depth=16)], 1)
    before, after = Page(tmp_path / "report.html").pictures("jpeg")
    assert before.shape == after.shape == (20, 1600)
    assert before.dtype == np.uint8
    small = cv2.resize(sharp(40, 3200, 1), (1600, 20), interpolation=cv2.INTER_AREA)
    assert np.abs(before - 255 * small).mean() < 5


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_shows_through_transparency(tmp_path: Path, depth: int) -> None:
    job, outcome = entry(tmp_path)
    alpha = np.zeros((60, 90), np.uint16 if depth == 16 else np.uint8)
    alpha[:, 45:] = 2**depth - 1
    encoding.write(Photo(np.ones((60, 90, 3), np.float32), alpha, depth), tmp_path / "clear.png")
    write(tmp_path / "report.html", [(replace(job, source=tmp_path / "clear.png"), outcome)], 1)
    before = Page(tmp_path / "report.html").pictures("jpeg")[0]
    assert np.abs(before[:, :40].astype(int) - 128).max() <= 2
    assert before[:, 50:].min() >= 253


def test_colours_keep_their_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "profile.png", icc_profile=profile)
    job, outcome = entry(tmp_path)
    write(tmp_path / "report.html", [(replace(job, source=tmp_path / "profile.png"), outcome)], 1)
    source = next(given["src"] for tag, given in Page(tmp_path / "report.html").elements if tag == "img")
    assert profile in base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)


def test_the_pictures_of_one_photo_are_in_memory_at_a_time(tmp_path: Path) -> None:
    job, outcome = entry(tmp_path)
    noise = np.random.default_rng(0).random((200, 300, 3), np.float32)
    encoding.write(Photo(noise), tmp_path / "noise.png")
    many = [(replace(job, source=tmp_path / "noise.png", restored=tmp_path / "noise.png"), outcome)] * 40
    write(tmp_path / "one.html", many[:1], 1)  # what is imported and kept for later is there now
    tracemalloc.start()
    try:
        write(tmp_path / "report.html", many, 1)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < (tmp_path / "report.html").stat().st_size / 2


def test_an_existing_page_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write(path, [], 1)
    assert path.read_text() == "mine"
    write(path, [], 1, overwrite=True)
    assert "0 restored" in path.read_text()
    assert os.listdir(tmp_path) == ["report.html"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = entry(tmp_path)
    files = set(os.listdir(tmp_path))

    def interrupt(path: Path) -> Photo:
        raise KeyboardInterrupt

    monkeypatch.setattr("blinddeblur.files.decoding.read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "report.html", [done], 1)
    assert set(os.listdir(tmp_path)) == files


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(OutputError, match="the disk is full"):
        write(tmp_path / "report.html", [], 1)


def chromium(page: Path, profile: Path, width: int = 1200) -> str:
    """The document as it is once its scripts have run."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("This test needs chromium: install it, or leave out -m browser.")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium refuses to sandbox itself for root
    options = ["--headless", "--disable-gpu", f"--user-data-dir={profile}", f"--window-size={width},900", *sandbox]
    command = [program, *options, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=60, check=True, encoding="utf-8").stdout


@pytest.mark.browser
@pytest.mark.parametrize(("width", "shape"), [(1200, (60, 90, 3)), (500, (60, 2000, 3)), (500, (900, 90, 1))])
def test_the_slider_moves_the_border_between_before_and_after(
    tmp_path: Path, width: int, shape: tuple[int, int, int]
) -> None:
    name = HOSTILE.replace("/", "∕")
    write(tmp_path / "report.html", [entry(tmp_path, name, shape), entry(tmp_path, "b.png", shape)], 1)
    script = """
    const [input, other] = document.querySelectorAll("input");
    const figure = input.parentElement, frame = figure.getBoundingClientRect();
    const at = (figure) => {
      const handle = figure.querySelector(".handle").getBoundingClientRect();
      const border = (handle.left + handle.right) / 2 - frame.left;
      return [getComputedStyle(figure.querySelector("img.after")).clipPath, Math.round(100 * border / frame.width)];
    };
    const moved = [at(figure)];
    for (const value of ["0", "25", "100"]) {
      input.value = value;
      input.dispatchEvent(new Event("input", { bubbles: true }));
      moved.push(at(figure));
    }
    const touches = (x) => document.elementFromPoint(frame.left + x, frame.top + frame.height / 2) === input;
    document.body.dataset.seen = JSON.stringify({
      moved, other: at(other.parentElement), touched: [touches(1), touches(frame.width / 2), touches(frame.width - 1)],
      size: [frame.width, frame.height], room: innerWidth, reach: document.documentElement.scrollWidth,
      loaded: [...document.images].filter((image) => image.naturalWidth > 0).length, title: document.title,
    });"""
    page = tmp_path / "moved.html"
    page.write_text(f"{(tmp_path / 'report.html').read_text(encoding='utf-8')}<script>{script}</script>", "utf-8")
    body = next(given for tag, given in Page(chromium(page, tmp_path / "profile", width)).elements if tag == "body")
    seen = json.loads(body["data-seen"])
    assert seen["moved"] == [[f"inset(0px 0px 0px {at}%)", at] for at in (50, 0, 25, 100)]
    assert seen["other"][1] == 50
    assert seen["touched"] == [True] * 3  # by fingers too: the range lies over the whole photo
    assert seen["size"][0] / seen["size"][1] == pytest.approx(shape[1] / shape[0], rel=0.01)
    assert seen["reach"] <= seen["room"]  # nothing sticks out of a narrow screen
    assert seen["loaded"] == 6
    assert seen["title"] == "blinddeblur: report"
