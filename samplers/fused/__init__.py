"""Fast paths behind the same functions."""

from samplers.fused.products import Precision, Product, product

__all__ = ["Precision", "Product", "product"]
