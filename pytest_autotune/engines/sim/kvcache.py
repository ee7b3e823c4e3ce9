"""Paged KV memory: blocks, their hashes, and the least recently used order in which they are reused."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Pages:
    """The blocks that one sequence holds, in order."""

    __slots__ = ("blocks", "hashes", "stored")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.hashes: list[int] = []  # of the full blocks, chained; empty without prefix caching
        self.stored = 0  # leading blocks whose hashes were offered to the cache


class KvCache:
    """A fixed number of blocks, shared by sequences with equal prefixes.

    A block without holders keeps its contents until it is taken for something else, oldest first,
    so that a later sequence with the same prefix finds it.
    """

    def __init__(self, blocks: int, block_size: int, *, prefix_caching: bool) -> None:
        self.capacity = blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._holders: dict[int, int] = {}  # block -> sequences that hold it
        self._hash_of: dict[int, int] = {}
        self._block_of: dict[int, int] = {}
        self._used = 0  # blocks from here on were never taken: a small model has millions, listing them takes a second
        self._released: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks without a holder."""
        return self.capacity - self._used + len(self._released)

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold."""
        return 1.0 - self.free / self.capacity

    def extend_hashes(self, pages: Pages, tokens: Sequence[int]) -> None:
        """Hash the blocks that `tokens` fill, each together with all before it."""
        if not self.prefix_caching:
            return
        size, hashes = self.block_size, pages.hashes
        for index in range(len(hashes), len(tokens) // size):
            before = hashes[-1] if hashes else 0
            hashes.append(hash((before, *tokens[index * size : (index + 1) * size])))

    def take_cached(self, pages: Pages, tokens: int) -> int:
        """Give `pages` (which hold nothing) the longest cached prefix; return its length in tokens.

        At least one of the `tokens` is left to compute, or there would be nothing to sample from.
        """
        if not self.prefix_caching:
            return 0
        self.queried_tokens += tokens
        for digest in pages.hashes[: (tokens - 1) // self.block_size]:
            block = self._block_of.get(digest)
            if block is None:
                break
            if block not in self._holders:
                del self._released[block]
            self._holders[block] = self._holders.get(block, 0) + 1
            pages.blocks.append(block)
        pages.stored = len(pages.blocks)
        found = len(pages.blocks) * self.block_size
        self.hit_tokens += found
        return found

    def allocate(self, pages: Pages, tokens: int) -> bool:
        """Make `pages` hold at least `tokens` tokens; change nothing and return False when blocks are short."""
        missing = -(-tokens // self.block_size) - len(pages.blocks)
        if missing <= 0:
            return True
        if missing > self.free:
            return False
        for _ in range(missing):
            block = self._take()
            self._holders[block] = 1
            pages.blocks.append(block)
        return True

    def store(self, pages: Pages, computed: int) -> None:
        """Offer the full blocks among the first `computed` tokens to later sequences."""
        for index in range(pages.stored, min(computed // self.block_size, len(pages.hashes))):
            digest, block = pages.hashes[index], pages.blocks[index]
            if digest not in self._block_of:
                self._block_of[digest] = block
                self._hash_of[block] = digest
            pages.stored = index + 1

    def release(self, pages: Pages) -> None:
        """Let go of all blocks; the last ones are reused first, since prefixes are worth more."""
        for block in reversed(pages.blocks):
            if self._holders[block] > 1:
                self._holders[block] -= 1
            else:
                del self._holders[block]
                self._released[block] = None
        pages.blocks.clear()
        pages.stored = 0

    def reset(self) -> bool:
        """Forget all cached contents; return False, doing nothing, while a sequence holds blocks."""
        if self._holders:
            return False
        self._hash_of.clear()
        self._block_of.clear()
        return True

    def _take(self) -> int:
        """Return a block without holders, one that was never used if there is one, else the oldest."""
        if self._used < self.capacity:
            self._used += 1
            return self._used - 1
        block, _ = self._released.popitem(last=False)
        digest = self._hash_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]
        return block
