"""Fast paths behind the same functions."""

from samplers.fused.correlation import Correlation, contrasted_correlation
from samplers.fused.products import Precision, Product, has_int8, product
from samplers.fused.random import uniform

__all__ = ["Correlation", "Precision", "Product", "contrasted_correlation", "has_int8", "product", "uniform"]
