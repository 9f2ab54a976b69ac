"""Untrusted checkpoint files as named arrays. Nothing in them is executed or imported, and torch is not needed."""

from fmdp.io.torch_files.reader import Checkpoint, read_checkpoint, read_state_dict

__all__ = ["Checkpoint", "read_checkpoint", "read_state_dict"]
