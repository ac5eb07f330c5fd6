"""Markov chains on tensors: pure steps, chains as the leading axis, any device, an explicit generator.

Knows no model class: block Gibbs takes conditionals, the others an energy, annealing a path.
"""

from samplers.adaptation import find_reasonable_step_size, warm_up
from samplers.annealing import Path, ais_log_weights, reverse_ais_log_weights, salakhutdinov_murray_schedule
from samplers.discrete import dmala, gibbs_with_gradients
from samplers.gibbs import Conditionals, gibbs
from samplers.hmc import hmc
from samplers.kernel import Kernel, Trace, run
from samplers.langevin import adjusted_underdamped, mala, ula, underdamped
from samplers.smc import smc
from samplers.tempering import adapt_ladder, geometric, log_z_ratios, parallel_tempering, rung, swap_rates

__all__ = [
    "Conditionals",
    "Kernel",
    "Path",
    "Trace",
    "adapt_ladder",
    "adjusted_underdamped",
    "ais_log_weights",
    "dmala",
    "find_reasonable_step_size",
    "geometric",
    "gibbs",
    "gibbs_with_gradients",
    "hmc",
    "log_z_ratios",
    "mala",
    "parallel_tempering",
    "reverse_ais_log_weights",
    "run",
    "rung",
    "salakhutdinov_murray_schedule",
    "smc",
    "swap_rates",
    "ula",
    "underdamped",
    "warm_up",
]
