"""python -m fmdp.convert SOURCE OUT [--half] [--kind=KIND]: write a trained field as a folder that `fmdp.load` reads.

SOURCE is a released checkpoint of the two-time U-Net (.pkl, .pt, .safetensors or .npz, also compressed by gzip; nothing
in it is executed), or the workdir of a run, whose averaged parameters are used. KIND says whether the network is a
flow_map or meanflow, where the file does not. OUT receives weights.safetensors and model.json.
"""

import argparse
import pathlib
import sys

import jax

from fmdp.errors import InputError
from fmdp.io.files import expand_path
from fmdp.pretrained import prior as prior_files


def convert(source: pathlib.Path, out: pathlib.Path, half: bool = False, kind: str | None = None) -> prior_files.Prior:
    """Write the field of `source` to the new folder `out`, rounded to bfloat16 if `half` is set.

    `kind` is that of `fmdp.load`.

    Returns:
      The prior that was written.

    Raises:
      InputError: the source cannot be read, or the folder exists or cannot be one.
    """
    out = expand_path(out)
    if out.exists():
        raise InputError(f"{out} exists: name a folder that does not, or remove it")
    prior = prior_files.load(source, kind=kind)
    prior_files.save(out, prior, half)
    return prior


def main(arguments: list[str] | None = None) -> None:
    """Convert what the command line names. Bad input ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m fmdp.convert", description=__doc__.split("\n\n")[0])  # type: ignore[union-attr]
    parser.add_argument("source", type=pathlib.Path, help="a released checkpoint, or the workdir of a run")
    parser.add_argument("out", type=pathlib.Path, help="a folder that does not exist yet")
    parser.add_argument("--half", action="store_true", help="round the weights to bfloat16")
    parser.add_argument("--kind", help="flow_map or meanflow, where a released checkpoint does not say which it holds")
    given = parser.parse_args(arguments)
    try:
        prior = convert(given.source, given.out, given.half, given.kind)
    except InputError as error:
        print(f"fmdp: {error}", file=sys.stderr)
        sys.exit(2)
    count = sum(x.size for x in jax.tree.leaves(prior.params))
    print(f"{count:,} parameters for images of {prior.image_shape} in {given.out}")
    if left_out := prior.about.get("left_out"):
        parts = ", ".join(f"{ascii(part)[1:-1][:60]} ({size:,} parameters)" for part, size in left_out.items())
        print(f"left out, as the velocity does not depend on it: {parts}")


if __name__ == "__main__":
    main()
