"""Data sets: named ones that carry their binarization in the name, and a user's own files."""

from genmodels.data.catalogue import describe, is_available, load, names
from genmodels.data.examples import DataSet, Examples

__all__ = ["DataSet", "Examples", "describe", "is_available", "load", "names"]
