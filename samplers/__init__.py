"""Markov chains on tensors: pure steps, chains as the leading axis, any device, an explicit generator.

Knows no model class: block Gibbs takes conditionals, the others an energy, a score, a denoiser or a path.
"""

from samplers.adaptation import find_reasonable_step_size, warm_up
from samplers.annealed_langevin import annealed_langevin, best_step_size, geometric_noise_levels, run_levels
from samplers.annealing import Path, ais_log_weights, reverse_ais_log_weights, salakhutdinov_murray_schedule
from samplers.compiled import compiled
from samplers.diagnostics import class_changes, diagnose, tempering_report, to_inference_data, trace_and_rank_plot
from samplers.discrete import dmala, gibbs_with_gradients
from samplers.gibbs import Conditionals, gibbs
from samplers.hmc import hmc
from samplers.kernel import Kernel, run
from samplers.langevin import adjusted_underdamped, mala, ula, underdamped
from samplers.line_integral import line_integral, score_mala
from samplers.metropolis_within_gibbs import metropolis_within_gibbs
from samplers.nuts import nuts
from samplers.observers import RunningMoments, Trace
from samplers.smc import smc
from samplers.storage import DiskTrace, load_chains, read_blocks, save_chains
from samplers.tempering import adapt_ladder, geometric, log_z_ratios, parallel_tempering, rung, swap_rates
from samplers.walkback import Denoiser, walk_back

__all__ = [
    "Conditionals",
    "Denoiser",
    "DiskTrace",
    "Kernel",
    "Path",
    "RunningMoments",
    "Trace",
    "adapt_ladder",
    "adjusted_underdamped",
    "ais_log_weights",
    "annealed_langevin",
    "best_step_size",
    "class_changes",
    "compiled",
    "diagnose",
    "dmala",
    "find_reasonable_step_size",
    "geometric",
    "geometric_noise_levels",
    "gibbs",
    "gibbs_with_gradients",
    "hmc",
    "line_integral",
    "load_chains",
    "log_z_ratios",
    "mala",
    "metropolis_within_gibbs",
    "nuts",
    "parallel_tempering",
    "read_blocks",
    "reverse_ais_log_weights",
    "run",
    "run_levels",
    "rung",
    "salakhutdinov_murray_schedule",
    "save_chains",
    "score_mala",
    "smc",
    "swap_rates",
    "tempering_report",
    "to_inference_data",
    "trace_and_rank_plot",
    "ula",
    "underdamped",
    "walk_back",
    "warm_up",
]
