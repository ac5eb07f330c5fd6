"""The families of models that runs can be made of."""

from genmodels.families.dae import DAE_FAMILY
from genmodels.families.dbm import DBM_FAMILY
from genmodels.families.dbn import DBN_FAMILY
from genmodels.families.family import Drawn, Family
from genmodels.families.gsn import GSN_FAMILY
from genmodels.families.labelled import LABELLED_FAMILY
from genmodels.families.noise_dae import NOISE_DAE_FAMILY
from genmodels.families.psd import PSD_FAMILY
from genmodels.families.rbm import RBM_FAMILY
from genmodels.families.s3c import S3C_FAMILY
from genmodels.families.sparse_coding import SPARSE_CODING_FAMILY
from genmodels.families.target_prop import TARGET_PROP_FAMILY
from genmodels.families.vae import VAE_FAMILY

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        RBM_FAMILY,
        DBM_FAMILY,
        DBN_FAMILY,
        VAE_FAMILY,
        DAE_FAMILY,
        GSN_FAMILY,
        NOISE_DAE_FAMILY,
        SPARSE_CODING_FAMILY,
        PSD_FAMILY,
        S3C_FAMILY,
        TARGET_PROP_FAMILY,
        LABELLED_FAMILY,
    )
}

__all__ = ["FAMILIES", "Drawn", "Family"]
