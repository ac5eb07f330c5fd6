"""Markov chains on tensors: pure steps, chains as the leading axis, any device, an explicit generator. Knows no model class."""

from samplers.annealing import Path, ais_log_weights, reverse_ais_log_weights, salakhutdinov_murray_schedule
from samplers.gibbs import Conditionals, gibbs
from samplers.kernel import Kernel, Trace, run

__all__ = [
    "Conditionals",
    "Kernel",
    "Path",
    "Trace",
    "ais_log_weights",
    "gibbs",
    "reverse_ais_log_weights",
    "run",
    "salakhutdinov_murray_schedule",
]
