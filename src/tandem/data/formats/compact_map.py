"""A map of numbers to numbers in 16 bytes or so an entry: millions of rows are told apart."""

from __future__ import annotations

from array import array

SMALLEST = 1 << 10
FULL, GROWTH = 0.8, 1.5
"""Share of the places that may be taken, and how many more there are then."""
LOW = (1 << 32) - 1


class CompactMap:
    """64-bit keys to 32-bit values, in two arrays (open addressing, linear probing).

    A dict of a million such numbers takes a hundred megabytes and more, this one 12 to 20. Where
    every value is the lower half of its key there is no second array, and it takes 10 to 13.

    >>> seen = CompactMap()
    >>> seen.set_default(5, 7), seen.set_default(5, 8), 5 in seen, len(seen)
    (None, 7, True, 1)
    """

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * SMALLEST))
        self._values: array[int] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return self._keys[self._place(key)] != 0

    def set_default(self, key: int, value: int) -> int | None:
        """Return the value of a key that is there; else keep this one and return None."""
        place = self._place(key)
        if self._keys[place] != 0:
            return self._keys[place] & LOW if self._values is None else self._values[place]
        self._keys[place] = key or 1
        if self._values is None and value != (key or 1) & LOW:
            self._values = array("I", (k & LOW for k in self._keys))
        if self._values is not None:
            self._values[place] = value
        self._count += 1
        if self._count > FULL * len(self._keys):
            self._grow()
        return None

    def _place(self, key: int) -> int:
        """Return where a key is, or is to be; 0 stands for an empty place, so it counts as 1."""
        keys, key = self._keys, key or 1
        place = key % len(keys)
        while (there := keys[place]) != 0 and there != key:
            place = place + 1 if place + 1 < len(keys) else 0
        return place

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        length = int(GROWTH * len(keys)) | 1
        self._keys = array("Q", bytes(8 * length))
        self._values = None if values is None else array("I", bytes(4 * length))
        for k, key in enumerate(keys):
            if key != 0:
                place = self._place(key)
                self._keys[place] = key
                if values is not None and self._values is not None:
                    self._values[place] = values[k]
