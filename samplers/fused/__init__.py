"""Fast paths behind the same functions."""

from samplers.fused.products import Precision, Product, product
from samplers.fused.random import uniform

__all__ = ["Precision", "Product", "product", "uniform"]
