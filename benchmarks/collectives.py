"""The collectives of a compiled program: how many of each kind, and the bytes of the arrays that they make."""

import math
import re
from collections.abc import Mapping

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\]")
# One that is begun and ended apart counts where it begins.
INSTRUCTION = re.compile(rf"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(")


def count(text: str, chips: int) -> dict[str, tuple[int, int]]:
    """Return kind -> (how many, bytes of what they make on a chip), of the text of a program for so many chips.

    A reduce-scatter counts with the whole array that it reduces, of which a chip keeps its part. One stands for each
    instruction, also for one in a loop. XLA for TPUs writes a reduce-scatter as a fusion of an all-reduce, whose name
    says so.
    """
    found: dict[str, tuple[int, int]] = {}
    computation = ""
    for line in text.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = begins[1]
        if made := INSTRUCTION.match(line):
            sizes = [_size(array) for array in ARRAY.findall(made[1])]
            size = max(sizes, default=0) if made[3] else sum(sizes)  # a start returns its operand beside the result
            scatters = made[2] == "all-reduce" and computation.startswith("all-reduce-scatter")
            kind = "reduce-scatter" if scatters else made[2]
            number, total = found.get(kind, (0, 0))
            found[kind] = number + 1, total + size * (chips if made[2] == "reduce-scatter" else 1)
    return found


def _size(array: tuple[str, str]) -> int:
    kind, shape = array
    return BYTES[kind] * math.prod(int(side) for side in shape.split(",") if side)


def describe(found: Mapping[str, tuple[int, int]]) -> str:
    """Return them in words: 212 all-gather of 5.70 GiB, 3 all-reduce of 0.10 GiB."""
    each = (f"{number} {kind} of {size / 2**30:.2f} GiB" for kind, (number, size) in sorted(found.items()))
    return ", ".join(each) or "none"
