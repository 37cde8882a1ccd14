"""Training in seconds: the loss falls, a stopped run goes on, a damaged checkpoint is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from blinddeblur.errors import PhotoError, WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.training.crops import PhotoCrops
from blinddeblur.training.loop import SIGMA_RANGE, draw_noise, draw_sigmas, train


def discs(rng: np.random.Generator) -> torch.Tensor:
    """A batch (8, 1, 16, 16) of white discs: something that can be learned quickly."""
    images = np.zeros((8, 16, 16), np.uint8)
    for image in images:
        cv2.circle(image, tuple(int(c) for c in rng.integers(4, 12, 2)), int(rng.integers(2, 5)), 255, -1)
    return torch.from_numpy(images)[:, None] / 255


def short_run(checkpoint: Path, minutes: float = 0.1) -> tuple[CompactUNet, list[tuple[int, float]]]:
    torch.manual_seed(0)
    network, rng, reports = CompactUNet(1, widths=(8, 16), blocks=1), np.random.default_rng(0), []
    average = train(network, lambda: discs(rng), checkpoint, minutes, 2e-3, report=lambda *r: reports.append(r))
    return average, reports


def test_the_loss_falls_and_the_run_goes_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    average, reports = short_run(checkpoint)
    assert reports[0][1] > 1.2 * reports[-1][1]
    clean = discs(np.random.default_rng(9))
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (average(noisy, torch.full((8,), 0.3)) - clean).square().mean()
    assert error < 0.5 * 0.3**2
    _, again = short_run(checkpoint, 0.05)
    assert again[0][0] > reports[-1][0]
    assert again[0][1] < reports[0][1]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    if content is None:  # of another network
        torch.save({"network": {"weight": torch.zeros(1)}, "average": {}, "optimiser": {}, "step": 1}, checkpoint)
    else:
        checkpoint.write_bytes(content)
    before = checkpoint.read_bytes()
    with pytest.raises(WeightsError, match="cannot be continued"):
        short_run(checkpoint, 0.01)
    assert checkpoint.read_bytes() == before


def test_sigmas_cover_the_range() -> None:
    sigmas = draw_sigmas(20000, torch.Generator().manual_seed(0))
    assert sigmas.min() >= SIGMA_RANGE[0]
    assert sigmas.max() <= SIGMA_RANGE[1]
    assert ((sigmas > 0.01) & (sigmas < 0.5)).float().mean() > 0.7
    assert (sigmas > 5).float().mean() > 0.03


def test_grey_images_get_grey_noise() -> None:
    clean = torch.rand(2, 3, 8, 8)
    clean[0] = clean[0, :1]
    noise = draw_noise(clean, torch.Generator().manual_seed(0))
    assert torch.equal(noise[0, 0], noise[0, 2])
    assert not torch.equal(noise[1, 0], noise[1, 2])


def test_crops_of_photos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("calm", "busy"):
        (tmp_path / folder).mkdir()
        shape, busy = (90, 120, 3), folder == "busy"
        picture = rng.integers(0, 256, shape, np.uint8) if busy else np.full(shape, 77, np.uint8)
        cv2.imwrite(str(tmp_path / folder / "photo.png"), picture)
    crops = PhotoCrops(tmp_path, {"calm": 1.0}, grey=0.0)
    batch = crops.batch(4, 32, rng)
    assert batch.shape == (4, 3, 32, 32)
    assert torch.allclose(batch, torch.tensor(77 / 255))
    both = PhotoCrops(tmp_path, grey=1.0).batch(12, 32, rng)
    assert torch.equal(both[:, 0], both[:, 2])
    assert (both.std(dim=(1, 2, 3)) > 0.05).sum() >= 7  # of two candidates the one with texture is kept


def test_folders_nothing_can_be_learned_from(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no photo in"):
        PhotoCrops(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(PhotoError, match=r"broken.jpg is no photo"):
        PhotoCrops(tmp_path)
