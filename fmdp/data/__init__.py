"""From files to batches: one module per source, the fixed split into training and test images, the grain pipeline."""

from fmdp.data.containers import Images, UInt8Images, read_stored
from fmdp.data.decoding import ImagePreprocessor, LazyImages
from fmdp.data.pipeline import batch_options, batches, placed_ahead, records
from fmdp.data.sources import digits, load_split
from fmdp.data.splits import Split, mixed_order, pin_split, set_aside, split
from fmdp.data.synthetic import DRAWING_SEED, TARGETS
from fmdp.io.levels import to_float

__all__ = [
    "DRAWING_SEED",
    "TARGETS",
    "ImagePreprocessor",
    "Images",
    "LazyImages",
    "Split",
    "UInt8Images",
    "batch_options",
    "batches",
    "digits",
    "load_split",
    "mixed_order",
    "pin_split",
    "placed_ahead",
    "read_stored",
    "records",
    "set_aside",
    "split",
    "to_float",
]
