"""Blind deblurring of photographs: the blur kernel and the sharp image, estimated together.

    import blinddeblur
    result = blinddeblur.restore(pixels)            # Result(image, kernel, sigma, residual, ...)
    prior = blinddeblur.load_prior("photo")         # prior.denoise(x, sigma)
    kernel = blinddeblur.random_kernel(rng)         # blur for tests: (63, 63), sums to 1
    scene = blinddeblur.TurbulenceEngine().restore(frames)  # SequenceResult(image, kernel, tilts, ...)
    found = blinddeblur.sample_posterior(y, operator, priors, shapes)  # any inverse problem: {"image": ..., ...}

Importing the package does not import torch; using it does.
"""

from typing import TYPE_CHECKING, Any

from blinddeblur.settings import SequenceSettings, Settings

if TYPE_CHECKING:
    from blinddeblur.engine.pipeline import Engine as Engine
    from blinddeblur.engine.pipeline import restore as restore
    from blinddeblur.engine.result import Result as Result
    from blinddeblur.engine.result import SequenceResult as SequenceResult
    from blinddeblur.engine.scene import TurbulenceEngine as TurbulenceEngine
    from blinddeblur.pictures.evolution import Recording as Recording
    from blinddeblur.priors.kolmogorov import KolmogorovTilt as KolmogorovTilt
    from blinddeblur.priors.loading import load_prior as load_prior
    from blinddeblur.priors.prior import Prior as Prior
    from blinddeblur.samplers.inverse_problem import sample_posterior as sample_posterior
    from blinddeblur.training.random_kernels import random_kernel as random_kernel
    from blinddeblur.training.simulator import simulate_turbulence as simulate_turbulence

__version__ = "0.1.0"
_HOMES = {
    "Engine": "engine.pipeline",
    "Result": "engine.result",
    "restore": "engine.pipeline",
    "Prior": "priors.prior",
    "load_prior": "priors.loading",
    "SequenceResult": "engine.result",
    "TurbulenceEngine": "engine.scene",
    "KolmogorovTilt": "priors.kolmogorov",
    "Recording": "pictures.evolution",
    "random_kernel": "training.random_kernels",
    "sample_posterior": "samplers.inverse_problem",
    "simulate_turbulence": "training.simulator",
}
__all__ = [*_HOMES, "SequenceSettings", "Settings"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
