"""Pages of text, drawn.

Letters differ from photographs in what the judge of kernels goes by: their edges are few, alike and all of one height,
paper is flat, and the ink of a sharp page is darker than anything in a blurred one.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blinddeblur.training.photo_crops import RGB8

LETTERS = "eeeeeeeeeeeetttttttttaaaaaaaaoooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllllcccuuummmwwffggyyppbbvkjxqz"
MARKS = ".,;:?!)([]-/+=0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORD, CAPITAL, MARKED = (1, 11), 0.15, 0.12  # letters of a word; shares of words that begin, and that end, with a mark
SIZES = (13, 60)  # pixels of a line's letters
SPACING = (1.1, 2.2)  # of lines, times the letters
FULL = (0.4, 1.0)  # of a line that is written on
SKIPPED = 0.15  # share of lines left empty
INK, PAPER = (0, 90), (150, 255)  # grey levels
TINT = 12  # grey levels by which the channels differ
SHADE = 0.3  # by which one corner of the paper is darker than the other, at most
INVERTED = 0.15  # share of pages with light letters on dark paper
TURN = 8.0  # degrees by which a page is turned, at most


def page(rng: np.random.Generator, side: int) -> RGB8:
    """A page (side, side, 3), with letters of one size."""
    size = round(float(np.exp(rng.uniform(*np.log(SIZES)))))
    written = Image.new("L", (side, side), 0)
    draw, font = ImageDraw.Draw(written), ImageFont.load_default(size)
    step, margin = size * float(rng.uniform(*SPACING)), int(rng.integers(0, side // 6))
    for line in range(int(side / step)):
        if rng.random() > SKIPPED:
            words = _words(rng, int(side / size * 2 * rng.uniform(*FULL)))
            draw.text((margin, int(line * step)), words, fill=255, font=font, stroke_width=int(rng.random() < 0.2))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-TURN, TURN)), 1.0)
    ink = cv2.warpAffine(np.asarray(written, np.float32) / 255, turn, (side, side), flags=cv2.INTER_AREA)
    paper = _colour(rng, PAPER) * (1 - float(rng.uniform(0, SHADE)) * _slope(rng, side))
    pixels = (1 - ink[..., None]) * paper + ink[..., None] * _colour(rng, INK)
    if rng.random() < INVERTED:
        pixels = 255 - pixels
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)


def _words(rng: np.random.Generator, letters: int) -> str:
    """As many letters, in words, with capitals and marks among them."""
    words: list[str] = []
    while letters > 0:
        word = "".join(rng.choice(list(LETTERS), int(rng.integers(*WORD))))
        word = word.capitalize() if rng.random() < CAPITAL else word
        words.append(word + (str(rng.choice(list(MARKS))) if rng.random() < MARKED else ""))
        letters -= len(words[-1]) + 1
    return " ".join(words)


def _colour(rng: np.random.Generator, levels: tuple[int, int]) -> NDArray[np.float64]:
    return np.asarray(rng.uniform(*levels) + rng.uniform(-TINT, TINT, 3))


def _slope(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    """From 0 in one corner, or along one edge, to 1 on the other side: (side, side, 1)."""
    down, across = rng.random(2)
    ramp = np.linspace(0, 1, side)
    return np.asarray((down * ramp[:, None] + across * ramp[None]) / (down + across))[..., None]
