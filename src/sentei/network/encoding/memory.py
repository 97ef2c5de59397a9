"""Place activations in one array, so that those that are needed at one time do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.network.encoding.blocks import Block, final


def places(blocks: Sequence[Block]) -> tuple[tuple[int, ...], int]:
    """Return where the output of each block begins in the array, and the length of the array.

    The largest outputs are placed first, each as low as those placed before it allow. Blocks from
    the one on that writes the caller's outputs have no place, and are left out.
    """
    count = final(blocks)
    ends = [
        max(reader for reader, block in enumerate(blocks) if index in block.sources)
        for index in range(count)
    ]
    begins: dict[int, int] = {}
    for index in sorted(range(count), key=lambda index: (-blocks[index].out, index)):
        together = sorted(
            (begins[other], begins[other] + blocks[other].out)
            for other in begins
            if other <= ends[index] and index <= ends[other]
        )
        begin = 0
        for low, high in together:
            if begin + blocks[index].out <= low:
                break
            begin = max(begin, high)
        begins[index] = begin
    length = max((begins[index] + blocks[index].out for index in begins), default=0)
    return tuple(begins[index] for index in range(count)), length
