"""What a kernel in a trace does: convolution, product, reduction, elementwise, copy or something else."""

import re

KINDS = ("convolution", "product", "reduction", "elementwise", "copy", "other")
"""The kinds. A fusion has the first of them that it contains."""

_OPCODES = {
    "convolution": "convolution",
    "product": "dot ragged-dot scaled-dot",
    "reduction": "reduce reduce-window select-and-scatter",
    "copy": "copy copy-start copy-done transpose reshape broadcast slice dynamic-slice dynamic-update-slice concatenate"
    " pad reverse gather",
    "other": "custom-call sort scatter scan topk fft cholesky triangular-solve rng rng-bit-generator"
    " rng-get-and-update-state infeed outfeed send send-done recv recv-done all-reduce all-reduce-start all-reduce-done"
    " all-gather all-gather-start all-gather-done all-to-all ragged-all-to-all reduce-scatter collective-broadcast"
    " collective-permute collective-permute-start collective-permute-done",
}  # all that remain are elementwise
_KIND = {opcode: kind for kind, opcodes in _OPCODES.items() for opcode in opcodes.split()}
_WITHOUT_WORK = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "after-all", "add-dependency",
    "partition-id", "replica-id", "domain", "opt-barrier", "get-dimension-size",
}  # fmt: skip
_CONTAINERS = {"while", "conditional", "call", "async-start", "async-update", "async-done"}
_NAMES = (
    ("other", r"nccl"),
    ("copy", r"nchwtonhwc|nhwctonchw|memcpy|memset"),
    ("convolution", r"conv(?!ert)|cudnn|fprop|dgrad|wgrad|winograd"),
    ("product", r"gemm|gemv|matmul|cutlass|cublas|(?<![a-z])dot"),
    ("reduction", r"reduce|reduction"),
    ("copy", r"copy|transpose|concatenate|slice|broadcast|(?<![a-z])pad(?![a-z])|gather|reverse|reshape"),
    ("elementwise", r"fusion|loop_|wrapped_|elementwise|convert"),
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')


def instruction_kinds(text: str) -> dict[str, str | None]:
    """The kinds of the instructions in a compiled program, by name.

    Args:
      text: of the program, from `compiled.as_text()`.

    Returns:
      One of KINDS for an instruction that does something itself. None for one whose time is that of the instructions
      inside, such as a loop. Instructions that do nothing are missing.
    """
    computations: dict[str, list[tuple[str, str, str]]] = {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[1], [])
        elif computations and (found := _INSTRUCTION.match(line)):
            current.append((found[1], found[2], found[3]))

    def kind(opcode: str, rest: str) -> str | None:
        if opcode == "fusion":
            inside = {kind(*one[1:]) for one in computations.get(_CALLED.search(rest)[1], [])}  # type: ignore[index]
            return next((name for name in KINDS if name in inside), "copy")
        if opcode == "custom-call":
            return _kind_of_target(_TARGET.search(rest))
        if opcode in _CONTAINERS or opcode in _WITHOUT_WORK:
            return None
        return _KIND.get(opcode, "elementwise")

    return {
        name: kind(opcode, rest)
        for instructions in computations.values()
        for name, opcode, rest in instructions
        if opcode not in _WITHOUT_WORK
    }


def _kind_of_target(target: re.Match | None) -> str:
    """Libraries do convolutions and products; of their other functions nothing is known."""
    found = kernel_kind(target[1]) if target else "other"
    return found if found in ("convolution", "product") else "other"


def kernel_kind(name: str) -> str:
    """The kind of a kernel as its name suggests, for kernels that no instruction of the program is known for."""
    return next((kind for kind, pattern in _NAMES if re.search(pattern, name.lower())), "other")
