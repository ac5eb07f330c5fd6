"""Fast paths behind the same functions."""

from samplers.fused.choose import conditional, takes_slices
from samplers.fused.correlation import contrasted_correlation
from samplers.fused.cpu import LookupConditional, SlicedConditional
from samplers.fused.graph import graphed
from samplers.fused.one_pass import OnePass
from samplers.fused.products import SMALLEST, Precision, Product, product
from samplers.fused.random import uniform

__all__ = [
    "SMALLEST",
    "LookupConditional",
    "OnePass",
    "Precision",
    "Product",
    "SlicedConditional",
    "conditional",
    "contrasted_correlation",
    "graphed",
    "product",
    "takes_slices",
    "uniform",
]
