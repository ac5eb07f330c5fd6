"""Binary tables on which density estimators are compared (Lowd and Davis 2010; Larochelle and Murray 2011, NADE)."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from genmodels.data.bits import SPLITS, read_packed, read_text
from genmodels.data.examples import DataSet, Examples
from genmodels.data.files import DataFile, altered, fetch, find

HOME = "https://raw.githubusercontent.com/arranger1044/DEBD/master/datasets"


@dataclass(frozen=True)
class Table:
    """One table: its packed file and, by split, its public text file and the digest of that file's sorted rows."""

    name: str
    num_columns: int
    packed_sha256: str
    contents: tuple[str, str, str]

    @property
    def packed(self) -> DataFile:
        return DataFile(f"binary_tables/{self.name}.npz", (self.packed_sha256,))

    @property
    def public(self) -> tuple[DataFile, ...]:
        names = [f"{self.name}.{split}.data" for split in SPLITS]
        return tuple(DataFile(f"binary_tables/{name}", url=f"{HOME}/{self.name}/{name}") for name in names)


TABLES = (
    Table(
        "adult",
        123,
        "397ceaa5dd2e993728765c7be83812b69cc0462499f9c55345ebfcbae9ac3863",
        (
            "fe58ab5fb05a407b87ce0dbbd3efcd90e37420c0d21e2e24acb14d279ab535a2",
            "0f8dd918e0a47e492ef1c2dc0ecf90e8556506fa70bf1edf27d6d249c884f2d4",
            "d9656482f7098c045c33f3e3fc089bc3ae79c0de597408d45ab4beb5eb211370",
        ),
    ),
    Table(
        "mushrooms",
        112,
        "9291060ba6af21a03c4f09bab1a59efe99ad7129f6c1162a43e7706a8655360c",
        (
            "9658b8ff43e9cf74a9c39f4ce3265c04c9f56c5e3b6ef5b77041df056a7b6e8a",
            "01edc3ed09613a9cc16753a0f96094a822335ec4cc6919f83c41b19174624fe9",
            "b41c577159cb9cc997aec7c09af38f3afa2cda5055d54c1ca43bd31b646e6156",
        ),
    ),
    Table(
        "nltcs",
        16,
        "de826aafe1bab61ba15a6940b54542496e11e703d576e803157ba46ee9c0071d",
        (
            "e22b2f56bba72649ea598713e1f57115ef47067cdaa7eb1ab50de02cdc88ca1e",
            "01a7bf4097940053428e5ec426cc5497533ea3e4d7d88e77ac3241760022c4bf",
            "2cc0d5c49516da3b6e47bf829a003b1aca4c985cb15f3e702ad00486b8910201",
        ),
    ),
    Table(
        "plants",
        69,
        "a11ac164b8c6001b970519ae8c271fe29e453c40648c4b1982c152afd0b859fa",
        (
            "d496da066fa3516d57bdd07cc368fdc6aee0a5596318c058087d816c52d5976e",
            "ce277629b7330ac98779dff9563a033979e35f55cef7a15c34860969eda07a78",
            "c9873cde88c86071d4c565234b182b0bdfcd261b7d90d22a330f079f256230eb",
        ),
    ),
    Table(
        "jester",
        100,
        "47f1b0424b709d0660dd4536d3663167af57ee1d148f5682d4b69e3ca31d1679",
        (
            "b6039cbdb456163560e0c6180002c5c21c193ba0a6bdb786459ecd1ac8212a5e",
            "bc1e2e4c7dcc25f99b4c754c801e8d21d17d578a034c5e6f8de515b3b60660d8",
            "a046b1b167ba6469f6b56ea9c3434335c4f28f52a437d298154960ce0585b1b4",
        ),
    ),
)


def load_table(table: Table) -> DataSet:
    """The published train, valid and test rows; their order carries no meaning and may differ between sources."""
    if find(table.packed):
        rows = read_packed(fetch(table.packed), table.num_columns)
    else:
        rows = {split: _read_public(table, number) for number, split in enumerate(SPLITS)}
    splits = [Examples(torch.from_numpy(rows[split])) for split in SPLITS]
    return DataSet(table.name, *splits, image_shape=None, support="binary")


def _read_public(table: Table, number: int) -> UInt8[np.ndarray, "n d"]:
    path = fetch(table.public[number])
    rows = read_text(path, table.num_columns)
    if _digest_of_sorted(rows) != table.contents[number]:
        raise altered(path)
    return rows


def _digest_of_sorted(rows: UInt8[np.ndarray, "n d"]) -> str:
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in rows))).hexdigest()
