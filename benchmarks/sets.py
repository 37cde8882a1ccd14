"""Test sets: what is to be restored, and the truth about it where there is one, as files in one folder.

FOLDER/blurred/NAME.png, FOLDER/sharp/NAME.png, and FOLDER/kernel/NAME.npy (float64, sum 1) and NAME.png (its maximum
white). Nothing is downloaded: where data are missing the error says where they are to be had.
"""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.metrics import SMALLEST
from blinddeblur import random_kernel
from blinddeblur.engine.crops import informative_crop
from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import UsageError
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.photo import EXTENSIONS, READABLE, Photo
from blinddeblur.files.together import write_bytes
from blinddeblur.physics.convolution import blur
from blinddeblur.tiles import Tile

SEED = 20261124  # of the kernels and the noise of `photos`; other seeds than those the shipped priors learned from
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))  # of crops in a photo, as shares of the room there is
ARRAY = 1.45  # side of a kernel's array, as a multiple of the largest extent
SMALLEST_ARRAY = 7  # pixels

LEVIN_CASES, LEVIN_SIDE = 32, 255
LEVIN_MATLAB = re.compile(r"im0[5-8]_flit0[1-8]\.mat")
LEVIN_SHIFT = 12  # pixels by which kernel and picture may be shifted against each other
LEVIN_ERROR = 0.015  # root mean square of what may be left, where white is 1; it is .006 to .011
LEVIN_HELP = (
    "The set of Levin et al. (CVPR 2009) is to be had at "
    "https://webee.technion.ac.il/people/anat.levin/papers/LevinEtalCVPR09Data.rar. Unpack it, and name as --data the "
    "folder with im05_flit01.mat to im08_flit08.mat, or one with blurred/, sharp/ and kernel/, where files of one case "
    "share a name."
)
PHOTOS_HELP = "Name as --data a folder of sharp photos, such as the 24 of Kodak, https://r0k.us/graphics/kodak/."

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One picture to restore. sharp: the truth, of the same size, and kernel: a .npy file, where they are known."""

    name: str
    blurred: Path
    sharp: Path | None = None
    kernel: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """How photos are blurred.

    Attributes:
        number: of crops.
        side: of each in pixels.
        extent: least and largest reach of the blur in pixels.
        noise: standard deviation of Gaussian noise where white is 1.
        photons: instead of that, Poisson noise with so many photons for white.
        crops: "spread" over each photo, corners first, or "texture", of each photo the one that has most of it.
    """

    number: int = 20
    side: int = 256
    extent: tuple[float, float] = (9, 32)
    noise: float = 0.01
    photons: float | None = None
    crops: str = "spread"

    def __post_init__(self) -> None:
        if self.number < 1:
            raise UsageError(f"--number must be 1 or more, not {self.number}.")
        if self.side < SMALLEST:
            raise UsageError(f"--side must be {SMALLEST} pixels or more, not {self.side}.")
        if not 1 <= self.extent[0] <= self.extent[1] <= self.side / 2:
            raise UsageError(
                "--extent takes the least and the largest reach of the blur in pixels, such as 9,32: at least 1, and "
                f"at most half of --side, not {self.extent[0]:g},{self.extent[1]:g}."
            )
        if not 0 <= self.noise <= 0.5:
            raise UsageError(f"--noise is a standard deviation from 0 to 0.5, where white is 1; not {self.noise:g}.")
        if self.photons is not None and not 1 <= self.photons <= 1e9:
            raise UsageError(f"--photons must lie between 1 and a billion, not {self.photons:g}.")
        if self.crops not in ("spread", "texture"):
            raise UsageError(f"--crops must be spread or texture, not {self.crops}.")

    @property
    def kernel_side(self) -> int:
        """Of the kernels' arrays in pixels, odd."""
        return max(SMALLEST_ARRAY, int(ARRAY * self.extent[1]) | 1)


@dataclass(frozen=True)
class Made:
    """A crop of a sharp photo, the same blurred and noised, both (side, side, C) in [0, 1], and the kernel."""

    name: str
    sharp: Array
    blurred: Array
    kernel: Array


def levin(data: Path, folder: Path, number: int | None = None) -> list[Case]:
    """The 32 pictures of real camera shake. Raises UsageError where the data are missing or wrong."""
    if not data.is_dir():
        raise UsageError(f"{data}: There is no such folder. {LEVIN_HELP}")
    matlab = sorted(path for path in data.iterdir() if LEVIN_MATLAB.fullmatch(path.name))
    if not matlab and not (data / "blurred").is_dir():
        raise UsageError(f"{data}: There is neither im05_flit01.mat nor blurred/ in this folder. {LEVIN_HELP}")
    sources: list[Path] = matlab or list(_by_stem(data / "blurred").values())
    if len(sources) != LEVIN_CASES:
        raise UsageError(f"{data}: There are {len(sources)} cases, and should be {LEVIN_CASES}. {LEVIN_HELP}")
    cases = []
    for source in sources[:number]:
        sharp, blurred, kernel = _levin_matlab(source) if matlab else _levin_pictures(data, source)
        if any(picture.shape[:2] != (LEVIN_SIDE, LEVIN_SIDE) for picture in (sharp, blurred)):
            raise UsageError(
                f"{source}: The pictures of this set have {LEVIN_SIDE} pixels on a side, and these "
                f"{_size(sharp)} (sharp) and {_size(blurred)} (blurred)."
            )
        error, turned = misfit(sharp, blurred, kernel), misfit(sharp, blurred, kernel[::-1, ::-1])
        if turned < error:  # some correlate where others convolve
            kernel, error = kernel[::-1, ::-1], turned
        if not error <= LEVIN_ERROR:
            raise UsageError(
                f"{source}: The sharp picture convolved with the kernel is not the blurred one: what is left has a "
                f"root mean square of {error:.3f}, and may have {LEVIN_ERROR}. Check the files. {LEVIN_HELP}"
            )
        cases.append(_written(folder, source.stem, Photo(blurred, depth=16), Photo(sharp, depth=16), kernel))
    return cases


def misfit(sharp: Array, blurred: Array, kernel: Array) -> float:
    """Root mean square of blurred - kernel * sharp after the best shift by whole pixels, where both are known.

    sharp, blurred: (H, W, C) of one size. kernel: (K, K), odd, sum 1.
    """
    x = torch.from_numpy(np.ascontiguousarray(sharp, np.float32)).permute(2, 0, 1)[None]
    k = torch.from_numpy(np.ascontiguousarray(kernel, np.float32))
    made = blur(x, k)[0].permute(1, 2, 0).numpy()
    inner = made[LEVIN_SHIFT:-LEVIN_SHIFT, LEVIN_SHIFT:-LEVIN_SHIFT]
    y = np.ascontiguousarray(blurred, np.float32)
    places = cv2.matchTemplate(y, np.ascontiguousarray(inner), cv2.TM_SQDIFF)
    top, left = np.unravel_index(int(places.argmin()), places.shape)
    return float(np.sqrt(np.mean((y[top : top + inner.shape[0], left : left + inner.shape[1]] - inner) ** 2)))


def photos(data: Path, folder: Path, recipe: Recipe) -> list[Case]:
    """Crops of sharp photos under random kernels, in 8 bits. Raises UsageError: too few photos, or too small ones."""
    made = blurred_crops(sharp_photos(data), recipe)
    return [_written(folder, m.name, Photo(m.blurred), Photo(m.sharp), m.kernel) for m in made]


def sharp_photos(data: Path) -> list[Path]:
    """The photos of a folder, kodim2 before kodim10. Raises UsageError where there are none."""
    files = [p for p in data.iterdir() if p.suffix.lower() in EXTENSIONS] if data.is_dir() else []
    if not files:
        what = "There is no photo in this folder" if data.is_dir() else "There is no such folder"
        raise UsageError(f"{data}: {what}. {PHOTOS_HELP}")
    return sorted(files, key=lambda p: (len(p.name), p))


def blurred_crops(files: list[Path], recipe: Recipe) -> Iterator[Made]:
    """Crops under random kernels and noise; the first N are the same whatever the number.

    The border of each crop is cut off after the blur, so that light from beyond the frame falls into it as in a camera.
    The kernels are drawn from the generator that the shipped priors were trained with, but none of them was learned
    from.
    """
    most = len(files) * (len(PLACES) if recipe.crops == "spread" else 1)
    if recipe.number > most:
        raise UsageError(f"{len(files)} photos give at most {most} crops, not {recipe.number}.")
    margin = recipe.kernel_side // 2
    wide = recipe.side + 2 * margin
    for index in range(recipe.number):
        path, place = files[index % len(files)], PLACES[index // len(files)]
        rng = np.random.default_rng([SEED, index])
        x = torch.from_numpy(decoding.read(path).pixels)
        if min(x.shape[:2]) < wide:
            raise UsageError(f"{path}: The photo has {_size(x)} pixels, and {wide} on a side are needed. Lower --side.")
        top, left = (int(share * (room - wide)) for share, room in zip(place, x.shape, strict=False))
        if recipe.crops == "texture":
            where = informative_crop(Pixels(x.numpy(), x.device), wide, Tile(0, 0, x.shape[0], x.shape[1]))
            top, left = where.top, where.left
        crop = x[top : top + wide, left : left + wide].permute(2, 0, 1)[None]
        extent = math.exp(rng.uniform(math.log(recipe.extent[0]), math.log(recipe.extent[1])))
        kernel = random_kernel(rng, recipe.kernel_side, extent)
        y = blur(crop, torch.from_numpy(kernel))[0].permute(1, 2, 0).numpy()
        if recipe.photons is None:
            y = y + recipe.noise * rng.standard_normal(y.shape)
        else:
            y = rng.poisson(recipe.photons * y.clip(0, None)) / recipe.photons
        sharp = crop[0, :, margin:-margin, margin:-margin].permute(1, 2, 0).numpy()
        yield Made(f"{index:03}", sharp, y.clip(0, 1).astype(np.float32), kernel)


def folder(data: Path, output: Path, number: int | None = None) -> list[Case]:
    """What somebody has: blurred/ and, with the same names, sharp/ and kernel/; or photos whose truth nobody knows."""
    if not data.is_dir():
        raise UsageError(f"{data}: There is no such folder, and no test set of this name.")
    blurred = _by_stem(data / "blurred" if (data / "blurred").is_dir() else data)
    if not blurred:
        raise UsageError(f"{data}: There is no photo in this folder, nor in blurred/ within it.")
    truths, kernels = _by_stem(data / "sharp"), _by_stem(data / "kernel", (*READABLE, ".npy"))
    cases = []
    for name, path in list(blurred.items())[:number]:
        pictures = [_without_alpha(decoding.read(p)) for p in (path, truths.get(name)) if p is not None]
        y, x = pictures[0], pictures[1] if len(pictures) > 1 else None
        if x is not None and x.stored.shape[:2] != y.stored.shape[:2]:
            raise UsageError(f"{path} has {_size(y.stored)} pixels, and its truth {_size(x.stored)}.")
        if x is not None and min(x.stored.shape[:2]) < SMALLEST:
            raise UsageError(f"{path} has {_size(y.stored)} pixels; to compare, {SMALLEST} on a side are needed.")
        kernel = kernel_files.read_kernel(kernels[name]) if name in kernels else None
        cases.append(_written(output, name, y, x, kernel))
    return cases


def _levin_pictures(data: Path, source: Path) -> tuple[Array, Array, Array]:
    kernels, truths = _by_stem(data / "kernel", (*READABLE, ".npy")), _by_stem(data / "sharp")
    for name, files in (("sharp", truths), ("kernel", kernels)):
        if source.stem not in files:
            raise UsageError(f"{data / name}: There is no file {source.stem} beside that in blurred/. {LEVIN_HELP}")
    sharp, blurred = (decoding.read(path).pixels for path in (truths[source.stem], source))
    return sharp, blurred, kernel_files.read_kernel(kernels[source.stem])


def _levin_matlab(source: Path) -> tuple[Array, Array, Array]:
    from scipy.io import loadmat  # comes with scikit-image

    try:
        arrays = loadmat(source, variable_names=["x", "y", "f"])
        sharp, blurred, kernel = (np.array(arrays[name], np.float64) for name in ("x", "y", "f"))
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise UsageError(f"{source}: The arrays x, y and f of MATLAB cannot be read from it. {LEVIN_HELP}") from error
    if any(a.ndim != 2 or not np.isfinite(a).all() for a in (sharp, blurred, kernel)) or kernel.min() < 0:
        raise UsageError(f"{source}: x, y and f must be tables of numbers, and the kernel f not negative. {LEVIN_HELP}")
    if not kernel.any():
        raise UsageError(f"{source}: The kernel f is zero. {LEVIN_HELP}")
    kernel = np.pad(kernel, [(0, 1 - side % 2) for side in kernel.shape])
    pictures = [a.astype(np.float32)[..., None].clip(0, 1) for a in (sharp, blurred)]
    return pictures[0], pictures[1], kernel / kernel.sum()


def _by_stem(folder: Path, endings: tuple[str, ...] = READABLE) -> dict[str, Path]:
    """Name without ending -> file, in order; a kernel's .npy file is preferred to its picture."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and p.is_file()):
        other = found.get(path.stem)
        if other is not None and ".npy" not in (path.suffix, other.suffix):
            raise UsageError(f"{path} and {other} have one name. Rename one.")
        if other is None or path.suffix == ".npy":
            found[path.stem] = path
    return found


def _written(folder: Path, name: str, blurred: Photo, sharp: Photo | None, kernel: Array | None) -> Case:
    """The case, its files in the folder. Raises UsageError where other pictures of this name are there."""
    paths = {kind: folder / kind / f"{name}.png" for kind in ("blurred", "sharp", "kernel")}
    files = {paths["blurred"]: encoding.encode(blurred, ".png")}
    if sharp is not None:
        files[paths["sharp"]] = encoding.encode(sharp, ".png")
    array = paths["kernel"].with_suffix(".npy")
    if kernel is not None:
        preview = (kernel / kernel.max()).astype(np.float32)[..., None]
        files[paths["kernel"]] = encoding.encode(Photo(preview, depth=16), ".png")
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(kernel, np.float64))
        files[array] = buffer.getvalue()
    for path, data in files.items():
        if not path.exists():
            write_bytes(data, path, overwrite=False)
        elif path.read_bytes() != data:
            raise UsageError(f"{path} is another picture than that of the set as it is now. Choose another -o.")
    truth = None if sharp is None else paths["sharp"]
    return Case(name, paths["blurred"], truth, None if kernel is None else array)


def _without_alpha(read: Photo) -> Photo:
    return Photo(read.stored, depth=read.depth)


def _size(picture: Any) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
