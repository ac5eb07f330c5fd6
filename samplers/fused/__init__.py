"""Fast paths behind the same functions."""

from samplers.fused.lookup import LookupConditional, draw_sites, key, log_partition
from samplers.fused.products import Precision, Product, conditional, product
from samplers.fused.random import uniform

__all__ = [
    "LookupConditional",
    "Precision",
    "Product",
    "conditional",
    "draw_sites",
    "key",
    "log_partition",
    "product",
    "uniform",
]
