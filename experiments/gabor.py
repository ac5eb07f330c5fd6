"""How well Gabor functions fit the atoms of a dictionary."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]


def gabor(parameters: Array, side: int) -> Array:
    """A plane wave under an elliptic Gaussian window, (side, side).

    Parameters: centre x and y, log widths along and across the wave, wave vector x and y (radians a pixel), and the
    amplitudes of cosine and sine.
    """
    cx, cy, along, across, kx, ky, cosine, sine = parameters
    y, x = np.mgrid[:side, :side]
    x, y = x - cx, y - cy
    angle = np.arctan2(ky, kx)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    window = np.exp(-0.5 * (u / np.exp(along)) ** 2 - 0.5 * (v / np.exp(across)) ** 2)
    phase = kx * x + ky * y
    return window * (cosine * np.cos(phase) + sine * np.sin(phase))


def gabor_fit(atom: Array) -> tuple[Array, float]:
    """The parameters of the best Gabor function of a square atom, and the share of its energy that it explains.

    Least squares from the atom's centre of energy and the peak of its spectrum, for several widths.
    """
    side = len(atom)
    atom = atom / np.linalg.norm(atom)
    energy = atom**2
    y, x = np.mgrid[:side, :side]
    centre = float((energy * x).sum()), float((energy * y).sum())
    size = 4 * side
    spectrum = np.abs(np.fft.fft2(atom, (size, size)))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = 2 * np.pi * np.fft.fftfreq(size)
    wave = frequency[column], frequency[row]
    tries = []
    for along, across in product((0.8, 2.0), (0.8, 2.0)):
        start = np.array([*centre, np.log(along), np.log(across), *wave, *_amplitudes(atom, centre, wave)])
        found = least_squares(lambda p: (gabor(p, side) - atom).ravel(), start, max_nfev=60)
        tries.append((1 - 2 * found.cost, found.x))
    share, best = max(tries, key=lambda one: one[0])
    return best, float(share)


def _amplitudes(atom: Array, centre: tuple[float, float], wave: tuple[float, float]) -> tuple[float, float]:
    side = len(atom)
    y, x = np.mgrid[:side, :side]
    phase = wave[0] * (x - centre[0]) + wave[1] * (y - centre[1])
    return float((atom * np.cos(phase)).sum()) / side, float((atom * np.sin(phase)).sum()) / side
