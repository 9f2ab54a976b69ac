"""Checkpoints of strangers as named arrays: nothing in them is ever executed or imported, and torch is not needed."""

from fmdp.io.torch_files.reader import read_state_dict

__all__ = ["read_state_dict"]
