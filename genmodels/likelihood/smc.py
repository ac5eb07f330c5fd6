"""log Z of layered Boltzmann machines by sequential Monte Carlo."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.likelihood.annealed import annealing_path
from genmodels.likelihood.estimate import Estimate, effective_sample_size, log_mean_exp, log_mean_exp_error
from samplers import smc
from samplers.fused import Precision


def smc_log_z(
    model: LayeredBoltzmann,
    base_bias: Float[Tensor, " d"],
    betas: Float[Tensor, " k"],
    *,
    num_islands: int = 20,
    island_size: int = 50,
    resample_below: float = 0.5,
    num_steps: int = 1,
    precision: Precision = "auto",
    generator: torch.Generator,
) -> Estimate:
    """log Z by sequential Monte Carlo along the path of `ais_log_z`, in islands that resample among their own particles.

    The mean of the islands' estimates of Z is unbiased, so its logarithm is a stochastic lower bound on log Z, as that of AIS,
    with less variance where weights spread. The standard error is that between the islands, which are independent. Each has
    random numbers of its own, and all processes of torch.distributed share them: the estimate is the same on any number
    of processes. Del Moral, Doucet and Jasra (2006); Vergé, Dubarry, Del Moral and Moulines (2015) for islands that do not
    interact.
    """
    if num_islands < 2:
        raise BadInput(f"An error bar needs at least 2 islands, not {num_islands}.")
    path = annealing_path(model, base_bias, betas, num_islands * island_size, num_steps, precision)

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        particles = smc(
            path,
            len(numbers),
            generator=generator,
            betas=betas,
            resample_below=resample_below,
            num_steps=num_steps,
        )
        return (particles.log_weight,)

    (log_weight,) = in_groups(num_islands * island_size, island_size, generator, work)
    islands = torch.logsumexp(log_weight.view(num_islands, island_size), 1)
    value = path.log_z0 + log_mean_exp(log_weight)
    method = f"SMC, {num_islands} islands × {island_size} particles × {len(betas) - 1} temperatures"
    diagnostics = {"ess": effective_sample_size(islands)}
    return Estimate(value, log_mean_exp_error(islands), "lower", method, num_islands, diagnostics)
