"""Fast paths behind the same functions."""

from samplers.fused.choose import conditional
from samplers.fused.correlation import Correlation, contrasted_correlation
from samplers.fused.graph import graphed
from samplers.fused.lookup import LookupConditional
from samplers.fused.one_pass import OnePass
from samplers.fused.products import Precision, Product, has_int8, product
from samplers.fused.random import uniform

__all__ = [
    "Correlation",
    "LookupConditional",
    "OnePass",
    "Precision",
    "Product",
    "conditional",
    "contrasted_correlation",
    "graphed",
    "has_int8",
    "product",
    "uniform",
]
