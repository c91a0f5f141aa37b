"""To which block of its model a tensor of a checkpoint belongs, by its name."""

import re
from typing import Final

BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def block_of(name: str) -> int | None:
    """Tell the block; None where it belongs to none."""
    block = BLOCK.search(name)
    return None if block is None else int(block[1])
