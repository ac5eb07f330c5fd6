"""The rooms: which way the imports run, and that there is no circle."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("samplers", "genmodels", "experiments")
# A documented format on disk, and the field's own libraries for diagnostics, NUTS and GPU kernels, imported when called.
EXTRA = {
    "samplers.storage": {"safetensors"},
    "samplers.diagnostics": {"arviz", "matplotlib"},
    "samplers.nuts": {"pyro"},
    "samplers.fused.triton_sweep": {"triton"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imports(name: str) -> set[str]:
    """Modules imported at a module's top level, and inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module, `from module import name` the module it names.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else node.module for full in inner}
    return found


def top(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", sorted(m for m in MODULES if top(m) == "samplers"))
def test_samplers_import_torch_and_nothing_of_ours(name: str) -> None:
    allowed = {"torch", "jaxtyping", "samplers"} | set(sys.stdlib_module_names) | EXTRA.get(name, set())
    assert {top(imported) for imported in imports(name)} <= allowed


@pytest.mark.parametrize("name", sorted(m for m in MODULES if top(m) == "genmodels"))
def test_the_library_imports_no_experiment(name: str) -> None:
    assert "experiments" not in {top(imported) for imported in imports(name)}


def test_a_model_file_knows_no_objective_estimator_sampler_or_other_model() -> None:
    for name in (
        "rbm",
        "dbm",
        "dbn",
        "vae",
        "dae",
        "gsn",
        "noise_conditional",
        "sparse_coding",
        "s3c",
        "spike_slab",
        "lasso",
        "priors",
        "gaussian_codes",
        "psd",
        "target_prop",
        "labelled_stack",
        "multimodal_stack",
        "recurrent",
        "invertible",
        "stack_layers",
        "top_priors",
        "directed_layers",
        "code_encoders",
        "networks",
        "boltzmann",
        "unit",
        "units",
        "joined",
        "interface",
    ):
        for imported in imports(f"genmodels.{name}"):
            assert not imported.startswith(("genmodels.objectives", "genmodels.likelihood", "genmodels.fit")), name
            assert not imported.startswith("samplers") or imported.startswith("samplers.fused"), name


def test_no_import_circle() -> None:
    """Raises graphlib.CycleError, which names the circle, if there is one. A package's __init__ is not its modules' user."""
    graph = {
        name: {used for used in imports(name) if used in MODULES and not name.startswith(used + ".")}
        for name in MODULES
    }
    list(TopologicalSorter(graph).static_order())


def test_the_circle_test_finds_a_circle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop = tmp_path / "units.py"
    loop.write_text("from genmodels.rbm import RBM\n")
    monkeypatch.setitem(MODULES, "genmodels.units", loop)
    with pytest.raises(ValueError, match="cycle"):
        test_no_import_circle()
