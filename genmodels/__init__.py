"""Probabilistic generative models with likelihoods one can trust."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmodels.dae import DAE
    from genmodels.dbm import DBM
    from genmodels.dbn import DBN
    from genmodels.errors import BadInput
    from genmodels.gsn import GSN
    from genmodels.psd import PSD
    from genmodels.rbm import RBM
    from genmodels.s3c import S3C
    from genmodels.sparse_coding import SparseCoding
    from genmodels.target_prop import AutoEncoderStack
    from genmodels.units import Bernoulli, Categorical, Gaussian
    from genmodels.vae import VAE

__all__ = [
    "DAE",
    "DBM",
    "DBN",
    "GSN",
    "PSD",
    "RBM",
    "S3C",
    "VAE",
    "AutoEncoderStack",
    "BadInput",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "SparseCoding",
]

_HOMES = {
    "AutoEncoderStack": "target_prop",
    "DAE": "dae",
    "BadInput": "errors",
    "DBM": "dbm",
    "DBN": "dbn",
    "GSN": "gsn",
    "PSD": "psd",
    "RBM": "rbm",
    "S3C": "s3c",
    "SparseCoding": "sparse_coding",
    "VAE": "vae",
    "Bernoulli": "units",
    "Categorical": "units",
    "Gaussian": "units",
}


def __getattr__(name: str) -> Any:
    # On first use, because torch takes seconds to import and `genmodels --help` needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
