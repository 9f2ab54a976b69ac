"""Checkpoints of strangers as named arrays: nothing in them is ever executed or imported, and torch is not needed."""

from fmdp.foreign.reader import read_state_dict
from fmdp.foreign.zips import load_npz

__all__ = ["load_npz", "read_state_dict"]
