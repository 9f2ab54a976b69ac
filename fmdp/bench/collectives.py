"""The bytes that a compiled program exchanges between devices, read from its text."""

import math
import re

SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
         "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (?P<shape>.*?) (?P<name>{'|'.join(COLLECTIVES)})(?P<start>-start)?\(")
_ALONE = re.compile(r"replica_groups=(\{(\{\d+\},?)+\}|\[\d+,1\])")
_CHAIN = re.compile(r'chain_id="\d+"')  # a TPU's compiler divides a collective into pieces, and repeats it in each
_SCATTER = re.compile(r"^%all-reduce-scatter\S* [^\n]* -> ([^\n]*) \{$.*?^\}", re.M | re.S)  # it writes one like this
_ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")


def collective_bytes(text: str) -> dict[str, int]:
    """The bytes of the results of a program's collectives on one device, by kind.

    A collective inside a loop counts once; one that involves a single device is not counted.

    Args:
      text: the text of a compiled program, from `step.lower(...).compile().as_text()`.
    """
    total: dict[str, int] = {}
    seen = set()
    for line in _SCATTER.sub(r"= \1 reduce-scatter(", text).splitlines():
        match, chain = _LINE.search(line), _CHAIN.search(line)
        if match and not _ALONE.search(line) and not (chain and (match["name"], chain[0]) in seen):
            seen.add((match["name"], chain and chain[0]))
            arrays = _ARRAY.findall(match["shape"])
            if match["start"] and match["name"] in ("all-gather", "collective-permute"):
                arrays = [array for array in arrays if array != ("u32", "")]  # what a TPU keeps track with
                arrays = arrays[len(arrays) // 2 :]  # an asynchronous one carries its inputs along
            size = sum(SIZES.get(kind, 0) * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in arrays)
            total[match["name"]] = total.get(match["name"], 0) + round(size)
    return total
