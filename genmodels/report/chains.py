"""Do the chains of a stored Boltzmann machine mix?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.chains import independent_start, run_chains
from genmodels.checkpoint import write_atomically
from genmodels.families import FAMILIES
from genmodels.progress import Progress
from genmodels.runs import CHAINS, load_model, stored_step
from samplers import Trace, diagnose

NUM_CHAINS, NUM_STEPS = 100, 1000


def check_chains(out: Path, *, seed: int, device: torch.device, progress: Progress) -> Mapping[str, Any] | None:
    """Diagnostics of the energy along block Gibbs chains, as the run's folder keeps them; None for other models.

    `NUM_CHAINS` chains start independently of each other and of the data; the second half of their sweeps counts. Made anew
    where the checkpoint has been, and kept in `chains.json`.
    """
    model, config = load_model(out)
    if not issubclass(FAMILIES[config.model].model, LayeredBoltzmann):
        return None
    step = stored_step(out)
    stored = json.loads((out / CHAINS).read_text()) if (out / CHAINS).exists() else {}
    if stored.get("step") == step:
        return stored
    found = {"step": step, **_diagnosed(model.to(device), seed, progress)}
    write_atomically(out / CHAINS, (json.dumps(found, indent=2) + "\n").encode())
    return found


def _diagnosed(model: Any, seed: int, progress: Progress) -> dict[str, Any]:
    generator = torch.Generator(model.biases[0].device).manual_seed(seed)
    energy = Trace(lambda state: model.energy(state[0], state[1:]), range(NUM_STEPS // 2 + 1, NUM_STEPS + 1))
    start = independent_start(model, NUM_CHAINS, generator=generator)
    run_chains(model, start, NUM_STEPS, generator=generator, observe=energy, progress=progress)
    found = diagnose(energy.stacked())
    numbers = {name: float(value) for name, value in found._asdict().items()}
    return {"seed": seed, "chains": NUM_CHAINS, "sweeps": NUM_STEPS, **numbers}
