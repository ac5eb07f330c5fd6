"""Ratios of normalising constants from draws of both distributions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def bennett(forward: Float[Tensor, " n"], backward: Float[Tensor, " m"]) -> Tensor:
    """log Z_1 / Z_0 by the Bennett acceptance ratio, nats, float64, shape ().

    `forward` and `backward` are u = log f_1 − log f_0 at draws of the first and of the second distribution. It solves

        Σ 1 / (m + n exp(c − u)) = 1    over all n + m draws

    for c: the estimate of least variance from these draws if they are independent (Bennett, 1976; Shirts and Chodera,
    2008, for two states). Consistent; its bias is of the order of its variance.
    """
    n, m = len(forward), len(backward)
    if n == 0 or m == 0:
        raise ValueError("The Bennett acceptance ratio needs draws of both distributions.")
    u = torch.cat([forward, backward]).double()
    # At these ends the sum is at least (n + m) / (m + n / (n + m)) > 1, and at most (n + m) / (m + n (n + m)) < 1.
    low, high = u.min() - torch.log(u.new_tensor(n + m)), u.max() + torch.log(u.new_tensor(n + m))
    for _ in range(64):
        middle = (low + high) / 2
        above = (1 / (m + n * torch.exp(middle - u))).sum() > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


def bennett_variance(forward: Float[Tensor, " n"], backward: Float[Tensor, " m"]) -> Tensor:
    """Variance of `bennett` of the same draws if they are independent, by the delta method, float64, shape ().

    (E_0[f²] / E_0[f]² − 1) / n + (E_1[g²] / E_1[g]² − 1) / m, with f = 1 − g = σ(u − c + log(m / n)) at the solution c
    (Bennett, 1976, eq. 10). Too small where the two distributions hardly overlap and the draws miss what they share.
    """
    n, m = len(forward), len(backward)
    shift = math.log(m / n) - bennett(forward, backward)
    parts = torch.sigmoid(forward.double() + shift), torch.sigmoid(-backward.double() - shift)
    return sum((part.square().mean() / part.mean().square() - 1) / len(part) for part in parts)  # pyright: ignore
