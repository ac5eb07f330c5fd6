"""Data sets that need no file: one that comes with scikit-learn, one that is enumerated."""

from itertools import product

import numpy as np
import torch

from genmodels.data import draws
from genmodels.data.examples import DataSet, Examples

DIGITS_SPLITS = (1297, 1497)
DIGITS_THRESHOLD = 8
SIDE = 4


def load_digits(name: str) -> DataSet:
    """scikit-learn's 1,797 digits of 8x8, 1 at levels from 8 of 16 up, in one fixed random order: 1,297 / 200 / 300."""
    # Importing scikit-learn takes over a second, which no other data set should cost.
    from sklearn.datasets import load_digits as load_levels

    levels, classes = load_levels(return_X_y=True)
    order = draws.permutation(len(levels))
    values = torch.from_numpy((levels[order] >= DIGITS_THRESHOLD).astype(np.uint8))
    labels = torch.from_numpy(classes[order].astype(np.int64))
    first, second = DIGITS_SPLITS
    blocks = (slice(0, first), slice(first, second), slice(second, None))
    splits = [Examples(values[block], labels=labels[block]) for block in blocks]
    return DataSet(name, *splits, image_shape=(8, 8), support="binary")


def load_bars_and_stripes(name: str) -> DataSet:
    """The 30 distinct 4x4 patterns whose rows are all equal (bars) or whose columns are all equal (stripes).

    Both kinds hold the all-off and the all-on pattern; here each comes once, where drawing the kind first (MacKay
    2003, chapter 43) gives them twice the weight. Train, valid and test are the same 30 rows: a whole population.
    """
    columns = np.array(list(product((0, 1), repeat=SIDE)), dtype=np.uint8)
    bars = np.repeat(columns[:, None, :], SIDE, axis=1)
    stripes = bars.transpose(0, 2, 1)[1:-1]
    patterns = Examples(torch.from_numpy(np.concatenate([bars, stripes]).reshape(-1, SIDE * SIDE)))
    return DataSet(name, patterns, patterns, patterns, image_shape=(SIDE, SIDE), support="binary")
