"""PyTorch's caching allocator of CUDA memory, as a model: what a sequence of requests needs at its fullest.

Follows c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.x with its default settings: one stream, no expandable segments,
no max_split_size, no rounding to powers of two. A request is rounded to 512 bytes and served from a pool of small or of
large blocks; where no cached block fits, a segment is taken from the driver. `allocated_bytes` is what
torch.cuda.memory_allocated reports (with the rests of blocks that were too small to split off), `reserved_bytes` what
torch.cuda.memory_reserved does; `held_bytes` leaves out segments without a used block, which PyTorch gives back to the
driver before it runs out of memory.

>>> allocator = CachingAllocator()
>>> block = allocator.allocate(3_000_001)
>>> allocator.allocated_bytes, allocator.reserved_bytes
(3000320, 20971520)
>>> allocator.free(block)
>>> allocator.allocated_bytes, allocator.reserved_bytes, allocator.peak_allocated_bytes
(0, 20971520, 3000320)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

MIB = 1 << 20
# kMinBlockSize, kSmallSize, kSmallBuffer, kMinLargeAlloc, kLargeBuffer and kRoundLarge of the source.
BLOCK_BYTES = 512
SMALL_BYTES = 1 * MIB
SMALL_SEGMENT_BYTES = 2 * MIB
MEDIUM_BYTES = 10 * MIB
MEDIUM_SEGMENT_BYTES = 20 * MIB
LARGE_ROUNDING_BYTES = 2 * MIB


class OutOfMemory(MemoryError):
    """A request that does not fit the card, even with all cached segments given back."""


@dataclass(slots=True, eq=False)
class Block:
    """A part of a segment, in use or free; `before` and `after` are its neighbours in the segment."""

    address: int
    size: int
    small: bool
    used: bool = False
    before: Block | None = None
    after: Block | None = None

    @property
    def is_segment(self) -> bool:
        """Whether it is all of its segment."""
        return self.before is None and self.after is None


@dataclass(slots=True)
class _Pool:
    """Free blocks in the order of a best fit: the smallest first, of equal ones that with the lowest address."""

    order: list[tuple[int, int]] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        insort(self.order, (block.size, block.address))
        self.blocks[block.address] = block

    def remove(self, block: Block) -> None:
        del self.order[bisect_left(self.order, (block.size, block.address))]
        del self.blocks[block.address]

    def best_fit(self, size: int) -> Block | None:
        place = bisect_left(self.order, (size, -1))
        if place == len(self.order):
            return None
        return self.blocks[self.order[place][1]]


def rounded(nbytes: int) -> int:
    """The size of the block that a request takes: a multiple of 512 bytes.

    >>> [rounded(nbytes) for nbytes in (1, 512, 513)]
    [512, 512, 1024]
    """
    return max(BLOCK_BYTES, -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES)


def segment_size(size: int) -> int:
    """What is taken from the driver for a block of `size` bytes that no cached block can hold."""
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < MEDIUM_BYTES:
        return MEDIUM_SEGMENT_BYTES
    return -(-size // LARGE_ROUNDING_BYTES) * LARGE_ROUNDING_BYTES


class CachingAllocator:
    """The allocator of one GPU. capacity_bytes: what the driver can give, None for any amount.

    The peaks are those since creation.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self.idle_bytes = self.peak_held_bytes = 0
        self._pools = {True: _Pool(), False: _Pool()}
        self._next_address = LARGE_ROUNDING_BYTES

    def allocate(self, nbytes: int) -> Block:
        """A block of at least `nbytes` (above 0). Raises OutOfMemory where capacity_bytes does not allow it."""
        if nbytes <= 0:
            raise ValueError(f"nbytes is {nbytes}; it must be at least 1.")
        size = rounded(nbytes)
        pool = self._pools[size <= SMALL_BYTES]
        block = pool.best_fit(size)
        if block is None:
            block = self._segment(size)
        else:
            pool.remove(block)
            self.idle_bytes -= block.size if block.is_segment else 0
        self._split(block, size, pool)
        block.used = True
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        self.peak_held_bytes = max(self.peak_held_bytes, self.held_bytes)
        return block

    def free(self, block: Block) -> None:
        """Hands a block back to its pool, one with those beside it that are free."""
        if not block.used:
            raise ValueError(f"the block at {block.address} is free already.")
        block.used = False
        self.allocated_bytes -= block.size
        pool = self._pools[block.small]
        if block.after is not None and not block.after.used:
            pool.remove(block.after)
            self._merge(block, block.after)
        if block.before is not None and not block.before.used:
            before = block.before
            pool.remove(before)
            self._merge(before, block)
            block = before
        pool.add(block)
        self.idle_bytes += block.size if block.is_segment else 0

    def release_cached(self) -> None:
        """Gives segments without a used block back to the driver, as torch.cuda.empty_cache does."""
        for pool in self._pools.values():
            for block in [block for block in pool.blocks.values() if block.is_segment]:
                pool.remove(block)
                self.reserved_bytes -= block.size
                self.idle_bytes -= block.size

    @property
    def held_bytes(self) -> int:
        """Bytes of segments with a used block: what the driver cannot have back."""
        return self.reserved_bytes - self.idle_bytes

    def _segment(self, size: int) -> Block:
        taken = segment_size(size)
        if self.capacity_bytes is not None and self.reserved_bytes + taken > self.capacity_bytes:
            self.release_cached()
            if self.reserved_bytes + taken > self.capacity_bytes:
                raise OutOfMemory(
                    f"{size} bytes were asked for; of {self.capacity_bytes} are {self.reserved_bytes} reserved, "
                    f"{self.allocated_bytes} of them in use."
                )
        self.reserved_bytes += taken
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        block = Block(self._next_address, taken, small=size <= SMALL_BYTES)
        # Segments are apart from each other: blocks never merge across them.
        self._next_address += taken + LARGE_ROUNDING_BYTES
        return block

    def _split(self, block: Block, size: int, pool: _Pool) -> None:
        """should_split: small blocks by anything that holds a block, large ones by more than a small request."""
        rest = block.size - size
        if rest < BLOCK_BYTES or (not block.small and rest <= SMALL_BYTES):
            return
        tail = Block(block.address + size, rest, block.small, before=block, after=block.after)
        if tail.after is not None:
            tail.after.before = tail
        block.size, block.after = size, tail
        pool.add(tail)

    @staticmethod
    def _merge(left: Block, right: Block) -> None:
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
