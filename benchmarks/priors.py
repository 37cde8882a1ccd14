"""How good the priors are, measured on what they were not trained on, and shown in pictures.

python -m benchmarks.priors photo PHOTOS [--prior photo] [--ffdnet ffdnet_color.pth]
python -m benchmarks.priors kernel [--prior kernel] [--real KERNELS]
python -m benchmarks.priors pictures PHOTOS -o OUT
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from blinddeblur import load_prior, random_kernel
from blinddeblur.estimation.first_kernel import first_kernel
from blinddeblur.files.photo import EXTENSIONS
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.samplers.schedule import Denoiser, curved
from blinddeblur.samplers.unconditional import sample

app = typer.Typer(help=__doc__, add_completion=False)

PHOTO_SIGMAS = (5, 15, 25, 50, 75, 100, 150)  # of 255
KERNEL_SIGMAS = (0.05, 0.2, 0.5)  # of the maximum of the kernel
KNOWS_NOTHING = 3.0  # noise under which nothing of a kernel is left
HELD_OUT = 20260101  # seed of the kernels no prior has been trained on

Photos = Annotated[Path, typer.Argument(help="Folder of sharp photos that no prior was trained on.")]


@app.command()
def photo(photos: Photos, prior: str = "photo", crop: int = 0, grey: bool = False, ffdnet: Path | None = None) -> None:
    """Mean PSNR of plain denoising, unclipped Gaussian noise; beside FFDNet where its published weights are given."""
    clean = [cropped(x, crop) for x in read_photos(photos)]
    if grey:
        clean = [x.mean(dim=1, keepdim=True) for x in clean]
    methods: dict[str, Denoiser] = {prior: load_prior(prior).denoise}
    if ffdnet is not None:
        methods["FFDNet"] = FFDNet.load(ffdnet)
    print("sigma", *PHOTO_SIGMAS, sep="\t")
    for name, denoise in methods.items():
        print(name, *(f"{_mean_psnr(denoise, clean, level / 255):.2f}" for level in PHOTO_SIGMAS), sep="\t", flush=True)


@app.command()
def kernel(prior: str = "kernel", number: int = 300, real: Path | None = None) -> None:
    """Denoised kernels: mean agreement with the truth (MNC) and RMS error, generated ones and real ones."""
    denoise = load_prior(prior).denoise
    rng = np.random.default_rng(HELD_OUT)
    sets = {"generated": [torch.from_numpy(random_kernel(rng)) for _ in range(number)]}
    if real is not None:  # camera shake of about 25 pixels at most, so compared with that
        extents = rng.uniform(10, 25, number)
        sets["generated shake"] = [torch.from_numpy(random_kernel(rng, 63, e, "shake")) for e in extents]
        sets["real"] = [_read_kernel(path) for path in sorted(real.glob("*.png"))]
    print("set", "sigma", "MNC thresholded", "MNC prior", "RMS thresholded", "RMS prior", sep="\t")
    for name, members in sets.items():
        clean = torch.cat([kernels.to_prior(k) for k in members])
        for sigma in KERNEL_SIGMAS:
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            noisy = clean + sigma * noise
            answers = {
                "thresholded": _best_threshold(noisy, clean),
                "prior": torch.cat([denoise(part, sigma) for part in noisy.split(32)]),
            }
            agreement = [f"{kernels.agreement(x.clamp_min(0), clean).mean():.3f}" for x in answers.values()]
            error = [f"{(x - clean).square().mean().sqrt():.4f}" for x in answers.values()]
            print(name, sigma, *agreement, *error, sep="\t", flush=True)


@app.command()
def conditioned(photos: Photos, prior: str = "photo-kernel", plain: str = "kernel", side: int = 256) -> None:
    """Kernels of blurred photos, 1 % noise: the conditioned prior beside the plain one and the first kernel.

    Mean agreement with the truth (MNC) and RMS error. At the highest level all that is known is the photo.
    """
    rng = np.random.default_rng(HELD_OUT)
    generator = torch.Generator().manual_seed(0)
    known, unknown = load_prior(prior), load_prior(plain).denoise
    truths, answers = [], []
    for sharp in read_photos(photos):
        kernel = torch.from_numpy(random_kernel(rng, 63, math.exp(rng.uniform(math.log(7), math.log(32)))))
        y = blur(cropped(sharp, side + 62).mean(dim=1, keepdim=True), kernel)
        y = y + 0.01 * torch.randn(y.shape, generator=generator)
        clean = kernels.to_prior(kernel)
        given = known.given(y, 0.01).denoise
        row = [kernels.to_prior(first_kernel(y, 47)[0])]
        for sigma in (*KERNEL_SIGMAS, KNOWS_NOTHING):
            noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
            row += [unknown(noisy, sigma), given(noisy, sigma)]
        truths.append(clean)
        answers.append(torch.cat(row))
    truth, answer = torch.stack(truths), torch.stack(answers)
    levels = [f"{name} {sigma}" for sigma in (*KERNEL_SIGMAS, KNOWS_NOTHING) for name in ("plain", "conditioned")]
    for index, name in enumerate(["first kernel", *levels]):
        x = answer[:, index : index + 1, 0]
        error = (x - truth[:, 0]).square().mean().sqrt()
        print(f"{name}\t{kernels.agreement(x.clamp_min(0), truth[:, 0]).mean():.3f}\t{error:.4f}")


@app.command()
def pictures(
    photos: Photos,
    output: Annotated[Path, typer.Option("--output", "-o")] = Path(),
    image_prior: str = "photo",
    kernel_prior: str = "kernel",
    sigma: float = 0.5,
    number: int = 6,
    side: int = 256,
) -> None:
    """priors.jpg: clean, noisy, denoised, sampled from there. prior-kernels.png: samples out of pure noise."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.cat([cropped(x, side) for x in read_photos(photos)[:number]])
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    denoise = load_prior(image_prior).denoise
    sampled = sample(denoise, noisy, curved(sigma, 0.003, 60), generator)
    _write_grid(output / "priors.jpg", [clean, noisy, denoise(noisy, sigma), sampled])
    start = 10.0
    pure = start * torch.randn(48, 1, kernels.PRIOR_SIZE, kernels.PRIOR_SIZE, generator=generator)
    drawn = sample(load_prior(kernel_prior).denoise, pure, curved(start, 0.01, 40), generator)
    drawn = drawn / drawn.amax(dim=(-2, -1), keepdim=True)
    _write_grid(output / "prior-kernels.png", list(drawn.split(12)))


class FFDNet(nn.Module):
    """The colour denoiser of Zhang, Zuo and Zhang 2018, only to measure against: twelve layers of 96 features."""

    def __init__(self) -> None:
        super().__init__()
        widths = [13, *[96] * 11, 12]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    @classmethod
    def load(cls, path: Path) -> "FFDNet":
        """From the published file ffdnet_color.pth."""
        network = cls()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return network.eval()

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """(B, 3, H, W) with H and W even."""
        folded = F.pixel_unshuffle(x.expand(-1, 3, -1, -1), 2)
        level = torch.full_like(folded[:, :1], sigma)
        return F.pixel_shuffle(self.model(torch.cat([folded, level], dim=1)), 2)


def _best_threshold(noisy: Tensor, clean: Tensor) -> Tensor:
    """What lies under a share of the maximum set to zero; the share that gives the best agreement of all."""
    peaks = noisy.amax(dim=(-2, -1), keepdim=True)
    tried = [torch.where(noisy >= share / 20 * peaks, noisy, torch.zeros(())) for share in range(1, 20)]
    return max(tried, key=lambda x: float(kernels.agreement(x, clean).mean()))


def _mean_psnr(denoise: Denoiser, clean: list[Tensor], sigma: float) -> float:
    figures = []
    for index, x in enumerate(clean):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(index))
        error = (denoise(x + sigma * noise, sigma) - x).square().mean()
        figures.append(-10 * math.log10(float(error)))
    return sum(figures) / len(figures)


def read_photos(folder: Path) -> list[Tensor]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS)
    if not paths:
        raise SystemExit(f"There is no photo in {folder}.")
    pixels = [cv2.imdecode(np.fromfile(p, np.uint8), cv2.IMREAD_COLOR_RGB) for p in paths]
    return [torch.from_numpy(p.transpose(2, 0, 1).copy())[None].float() / 255 for p in pixels]


def cropped(x: Tensor, side: int) -> Tensor:
    """The middle; the whole, to an even size, for side 0."""
    height, width = (min(side or extent, extent) // 2 * 2 for extent in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def _read_kernel(path: Path) -> Tensor:
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED).astype(np.float32)
    return kernels.centre(kernels.normalise(torch.from_numpy(np.pad(values, 4))))[0]


def _write_grid(path: Path, rows: list[Tensor]) -> None:
    """Each row (B, C, H, W) in [0, 1] as one row of pictures."""
    strips = [torch.cat(list(row.clamp(0, 1)), dim=2) for row in rows]
    picture = torch.cat(strips, dim=1).permute(1, 2, 0).mul(255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(path.suffix, picture[..., ::-1])[1].tofile(path)


if __name__ == "__main__":
    with torch.inference_mode():
        app()
