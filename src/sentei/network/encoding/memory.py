"""Place activations in one array, so that those that are needed at one time do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.network.encoding.blocks import Block, final
from sentei.network.encoding.stages import Kept


def places(blocks: Sequence[Block]) -> tuple[tuple[int, ...], int]:
    """Return where the output of each block begins in the array, and the length of the array.

    The largest outputs are placed first, each as low as those placed before it allow. What is kept
    between calls is in an array of its own, and takes no room here. Blocks from the one on that
    writes the caller's outputs have no place, and are left out.
    """
    count = final(blocks)
    sizes = [0 if isinstance(block.head, Kept) else block.out for block in blocks]
    ends = [
        max(reader for reader, block in enumerate(blocks) if index in block.sources)
        for index in range(count)
    ]
    begins: dict[int, int] = {}
    for index in sorted(range(count), key=lambda index: (-sizes[index], index)):
        together = sorted(
            (begins[other], begins[other] + sizes[other])
            for other in begins
            if other <= ends[index] and index <= ends[other]
        )
        begin = 0
        for low, high in together:
            if begin + sizes[index] <= low:
                break
            begin = max(begin, high)
        begins[index] = begin
    length = max((begins[index] + sizes[index] for index in begins), default=0)
    return tuple(begins[index] for index in range(count)), length
