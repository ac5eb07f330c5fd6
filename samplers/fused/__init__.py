"""Fast paths behind the same functions."""

from samplers.fused.correlation import Correlation, contrasted_correlation
from samplers.fused.lookup import LookupConditional, draw_sites, key, log_partition
from samplers.fused.products import Precision, Product, conditional, has_int8, product
from samplers.fused.random import uniform

__all__ = [
    "Correlation",
    "LookupConditional",
    "Precision",
    "Product",
    "conditional",
    "contrasted_correlation",
    "draw_sites",
    "has_int8",
    "key",
    "log_partition",
    "product",
    "uniform",
]
