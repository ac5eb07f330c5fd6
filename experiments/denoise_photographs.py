"""Denoising photographs patch by patch: the most probable codes under a learned dictionary.

The task of Elad and Aharon (2006) at their noise of 25 grey levels of 255, on photographs of the Berkeley segmentation
data: every 8 × 8 patch of the noisy image, less its mean, is replaced by its reconstruction from the most probable Laplace
code, and overlapping patches are averaged. The dictionary is learned from patches of other photographs; the penalty is the
best of a few on validation photographs. Beside it stands what scikit-learn's own example of denoising does, with a
dictionary of as many atoms that `MiniBatchDictionaryLearning` learns from the same patches: orthogonal matching pursuit
with two atoms a patch; and the same pursuit stopped at the noise level, as in the paper.

    python -m experiments.denoise_photographs            # the middles of 6 test photographs
    python -m experiments.denoise_photographs --smoke    # the same code, in seconds
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from sklearn.datasets import load_sample_images
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import orthogonal_mp_gram
from torch import Tensor
from torch.nn.functional import fold, unfold

from experiments.results import FOLDER, Published, Result
from genmodels import plots
from genmodels.data.examples import Examples
from genmodels.data.patches import natural_images
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.objectives import dictionary_learning
from genmodels.priors import LaplacePrior
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian

PUBLISHED: dict[str, Published] = {}
_GAIN = 1.15  # of the noise level at which pursuit stops (Elad and Aharon, 2006)
Denoiser = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    noise: float = 25 / 255
    side: int = 8
    codes: int = 256
    num_patches: int = 20_000
    epochs: int = 2
    batch_size: int = 500
    scales: tuple[float, ...] = (0.015, 0.025, 0.04, 0.06)
    """Of the prior, in units of the range of grey; the penalty is noise² / scale."""
    num_valid: int = 3
    num_test: int = 6
    crop: int = 112
    """Side of the middle of a photograph that is denoised."""
    seed: int = 0


SMOKE = Config(side=4, codes=20, num_patches=300, epochs=1, scales=(0.1, 0.2), num_valid=1, num_test=2, crop=24)


def patches_of(image: Float[Tensor, "h w"], side: int) -> Float[Tensor, "n d"]:
    """All overlapping patches."""
    return unfold(image[None, None], side)[0].T


def image_of(patches: Float[Tensor, "n d"], shape: tuple[int, ...], side: int) -> Float[Tensor, "h w"]:
    """The image in which every pixel is the mean of the patches that hold it."""
    total = fold(patches.T[None], shape, side)[0, 0]
    return total / fold(torch.ones_like(patches).T[None], shape, side)[0, 0]


def denoised(noisy: Float[Tensor, "h w"], side: int, denoise: Denoiser) -> Float[Tensor, "h w"]:
    """The image from its denoised patches, each less its mean and with it again."""
    patches = patches_of(noisy, side)
    mean = patches.mean(1, keepdim=True)
    return image_of(denoise(patches - mean) + mean, noisy.shape, side).clamp(0, 1)


def psnr(image: Float[Tensor, "h w"], truth: Float[Tensor, "h w"]) -> float:
    """Peak signal-to-noise ratio, dB."""
    return -10 * math.log10(float((image - truth).square().mean()))


def learned(config: Config, x: Float[Tensor, "n d"], scale: float) -> SparseCoding:
    """Sparse coding whose penalty is that of denoising, its dictionary learned online from clean patches."""
    observed = Gaussian(x.shape[1], variance=config.noise**2)
    model = SparseCoding(observed, LaplacePrior(config.codes, scale=scale), learn_noise=False)
    model.initialise_from_data(x)
    model.visible_bias.data.zero_()
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=1.0,
        schedule="constant",
        average=0.0,
        seed=config.seed,
        device="cpu",
    )
    fit(model, dictionary_learning(model, forgetting=1.0), Examples(x), settings)
    return model.requires_grad_(False)


def most_probable(model: SparseCoding) -> Denoiser:
    """The reconstruction from the most probable code."""
    return lambda x: model.decode(model.infer(x, tolerance=1e-3).z)


def scikit_learn(config: Config, x: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
    """Atoms by `MiniBatchDictionaryLearning` with the penalty of scikit-learn's example and as many passes as ours."""
    options: dict[str, Any] = {"alpha": 1, "max_iter": config.epochs, "fit_algorithm": "cd"}
    learner = MiniBatchDictionaryLearning(
        n_components=config.codes, batch_size=200, random_state=config.seed, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # The example gives patches of unit variance, for which its penalty is meant.
        learner.fit((x / x.std(0)).double().numpy())
    atoms = torch.from_numpy(learner.components_).float() * x.std(0)
    return atoms / atoms.norm(dim=1, keepdim=True).clamp_min(1e-12)


def pursuit(
    atoms: Float[Tensor, "k d"], *, num_atoms: int | None = None, squared_error: float | None = None
) -> Denoiser:
    """Orthogonal matching pursuit by scikit-learn, to so many atoms or to this squared error."""
    gram = (atoms @ atoms.T).double().numpy()

    def denoise(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        correlation = (atoms @ x.T).double().numpy()
        found = np.zeros_like(correlation)
        size = x.square().sum(1).double().numpy()
        # A patch that is within the noise already needs no atom, and the pursuit would warn of it.
        rows = np.flatnonzero(size > (squared_error or 0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            codes: Any = orthogonal_mp_gram(
                gram,
                correlation[:, rows],
                n_nonzero_coefs=num_atoms,
                tol=squared_error,
                norms_squared=size[rows] if squared_error is not None else None,
            )
        found[:, rows] = codes.reshape(len(atoms), -1)
        return torch.from_numpy(found.T).float() @ atoms

    return denoise


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Learn, denoise, and write the result file and the picture.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    first = (180 - config.crop) // 2
    last = first + config.crop
    photographs = {
        split: torch.from_numpy(images[:, first:last, first:last]).float() / 255
        for split, images in (sample_images() if smoke else natural_images()).items()
    }
    randoms = default_generator(config.seed)
    clean = training_patches(photographs["train"], config, randoms)
    noisy = {
        split: [
            image + config.noise * torch.randn(image.shape, generator=randoms) for image in photographs[split][:num]
        ]
        for split, num in (("valid", config.num_valid), ("test", config.num_test))
    }

    def score(denoise: Denoiser, split: str) -> tuple[list[float], list[Tensor]]:
        images = [denoised(image, config.side, denoise) for image in noisy[split]]
        return [psnr(image, truth) for image, truth in zip(images, photographs[split], strict=False)], images

    models = {scale: learned(config, clean, scale) for scale in config.scales}
    valid = {scale: float(np.mean(score(most_probable(model), "valid")[0])) for scale, model in models.items()}
    best = max(valid, key=lambda scale: valid[scale])
    atoms = scikit_learn(config, clean)
    level = (_GAIN * config.noise) ** 2 * config.side**2
    ways: dict[str, Denoiser] = {
        "map": most_probable(models[best]),
        "sklearn_two_atoms": pursuit(atoms, num_atoms=2),
        "sklearn_noise_level": pursuit(atoms, squared_error=level),
    }
    result = Result(
        "denoise_photographs",
        "python -m experiments.denoise_photographs",
        f"middles of {config.num_test} test photographs of BSD, noise {255 * config.noise:.0f} of 255",
        [config.seed],
        config,
        PUBLISHED,
    )
    shown = [photographs["test"][: config.num_test], torch.stack(noisy["test"]).clamp(0, 1)]
    before = [psnr(image.clamp(0, 1), truth) for image, truth in zip(noisy["test"], photographs["test"], strict=False)]
    result.add_number("psnr_noisy", float(np.mean(before)))
    result.add_number("scale", best)
    ours: list[float] = []
    for name, denoise in ways.items():
        values, images = score(denoise, "test")
        ours = ours or values
        shown.append(torch.stack(images))
        result.add_number(f"psnr_{name}", float(np.mean(values)))
        ahead = np.subtract(ours, values)
        if name != "map":
            error = float(ahead.std(ddof=1) / len(ahead) ** 0.5)
            result.add_number(f"psnr_map_over_{name}", float(ahead.mean()), error)
        print(f"{name}: {np.mean(values):.2f} dB", file=sys.stderr, flush=True)
    title = "photograph, noisy, most probable codes, pursuit with two atoms, pursuit to the noise level"
    shape = (config.crop, config.crop)
    rows = torch.stack(shown, 1).flatten(0, 1).flatten(1)
    figure = plots.sample_grid(rows, shape, title=title, columns=len(shown))
    plots.save(figure, results / "denoise_photographs.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


def sample_images() -> dict[str, np.ndarray]:
    """Four parts of the two photographs that scikit-learn brings, as all splits: they need no download."""
    grey = np.stack([image.mean(2) for image in load_sample_images().images])
    parts = np.concatenate([grey[:, :180, :180], grey[:, 180:360, :180]])
    return dict.fromkeys(("train", "valid", "test"), parts)


def training_patches(
    images: Float[Tensor, "n h w"], config: Config, generator: torch.Generator
) -> Float[Tensor, "m d"]:
    """Patches at random places, less their means, from the half of them that varies more."""
    num = 2 * config.num_patches
    which = torch.randint(len(images), (num,), generator=generator)
    top, left = torch.randint(images.shape[1] - config.side + 1, (2, num), generator=generator)
    windows = images.unfold(1, config.side, 1).unfold(2, config.side, 1)
    rows = windows[which, top, left].flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows[rows.norm(dim=1).topk(config.num_patches).indices.sort().values]


if __name__ == "__main__":
    print(tyro.cli(main))
