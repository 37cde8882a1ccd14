"""Random crops of photographs: what the photo prior learns from."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from blinddeblur.errors import PhotoError
from blinddeblur.photo import EXTENSIONS


class PhotoCrops:
    """Photographs held in memory as 8-bit pixels, and random crops of them.

    A crop is drawn at a random scale as well as a random place: one network has to serve every level of a
    pyramid (where photos are sharper than they were taken) and photos that are soft at pixel level.

    Args:
        folder: photographs, directly or in subfolders.
        shares: weight of each subfolder among the crops; by default each photo counts the same.
        scales: range of the scale, below 1 smaller than the photo and sharper, above 1 larger and softer.
        grey: share of the crops turned into grey ones, with three equal channels.
    """

    def __init__(
        self,
        folder: Path,
        shares: Mapping[str, float] | None = None,
        scales: tuple[float, float] = (0.5, 1.5),
        grey: float = 0.2,
    ) -> None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
        if shares is not None:
            paths = [p for p in paths if p.relative_to(folder).parts[0] in shares]
        if not paths:
            raise PhotoError(f"There is no photo in {folder}. Give a folder of sharp photographs to learn from.")
        self.photos = [_read(p) for p in paths]
        self.scales, self.grey = scales, grey
        groups = [p.relative_to(folder).parts[0] for p in paths]
        weights = np.array([1.0 if shares is None else shares[g] / groups.count(g) for g in groups])
        self.weights = weights / weights.sum()

    def batch(self, number: int, size: int, rng: np.random.Generator) -> Tensor:
        """(number, 3, size, size) in [0, 1]. Of two candidates each the one with more texture is kept."""
        crops = []
        for _ in range(number):
            candidates = [self._crop(size, rng) for _ in range(2)]
            crop = max(candidates, key=_texture)
            if rng.random() < self.grey:
                crop = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
            crops.append(crop)
        stacked = np.stack(crops).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(stacked)).float() / 255  # torch wants no negative strides

    def _crop(self, size: int, rng: np.random.Generator) -> np.ndarray:
        photo = self.photos[rng.choice(len(self.photos), p=self.weights)]
        scale = np.exp(rng.uniform(*np.log(self.scales)))
        side = min(max(8, round(size / scale)), *photo.shape[:2])
        top, left = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        if side != size:
            crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
        crop = np.rot90(crop, int(rng.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def _read(path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None or min(pixels.shape[:2]) < 16:
        raise PhotoError(f"{path} is no photo that can be learned from. Remove it from the folder and start again.")
    return pixels


def _texture(crop: np.ndarray) -> float:
    grey = crop.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
