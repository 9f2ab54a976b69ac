"""Images in, batches out: sources one a file, their fixed train/test split, and the grain pipeline over them."""

from fmdp.data.containers import Bytes, Images, to_float
from fmdp.data.decoding import Frame, Pictures
from fmdp.data.pipeline import batches, diagonal_count, records
from fmdp.data.sources import digits, load
from fmdp.data.splits import Split, pin, split
from fmdp.data.synthetic import DRAWING_SEED, TARGETS

__all__ = [
    "DRAWING_SEED",
    "TARGETS",
    "Bytes",
    "Frame",
    "Images",
    "Pictures",
    "Split",
    "batches",
    "diagonal_count",
    "digits",
    "load",
    "pin",
    "records",
    "split",
    "to_float",
]
