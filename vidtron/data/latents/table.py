"""Where the entries of a latent cache lie, by row of the index and size of the clip: some 30 bytes an entry."""

from collections.abc import Iterable, Sequence

import numpy as np

from vidtron.data.latents.parts import Entry

_MERGE = 65536
_PLACE = np.dtype([("part", np.int32), ("crc32", np.uint32), ("length", np.int64), ("offset", np.int64)])

Place = tuple[int, Entry]
"""(number of the part, entry)."""


class EntryTable:
    """(row, size) -> place. What was put last counts. Not thread-safe."""

    def __init__(self, sizes: Sequence[tuple[int, int, int]]) -> None:
        """`sizes`: of all clips, in any order, some perhaps twice; entries of others are left out."""
        self._sizes = {size: number for number, size in enumerate(dict.fromkeys(map(tuple, sizes)))}
        self._keys = np.zeros(0, np.int64)
        self._places = np.zeros(0, _PLACE)
        self._recent: dict[int, Place | None] = {}  # not in the arrays yet; None: gone

    def __len__(self) -> int:
        self._merge()
        return len(self._keys)

    def __contains__(self, key: tuple[int, tuple[int, int, int]]) -> bool:
        return self.get(*key) is not None

    def get(self, row: int, size: tuple[int, int, int]) -> Place | None:
        """Where the entry lies, None if there is none."""
        key = self._key(row, size)
        if key is None:
            return None
        if key in self._recent:
            return self._recent[key]
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        part, crc32, length, offset = self._places[place].item()
        return part, Entry(row, size, offset, length, crc32)

    def put(self, part: int, entries: Iterable[Entry]) -> None:
        """Entries of one part."""
        for entry in entries:
            key = self._key(entry.row, entry.size)
            if key is not None:
                self._recent[key] = part, entry
        if len(self._recent) >= _MERGE:
            self._merge()

    def remove(self, row: int, size: tuple[int, int, int]) -> None:
        """Forget an entry."""
        key = self._key(row, size)
        if key is not None:
            self._recent[key] = None

    def _key(self, row: int, size: tuple[int, int, int]) -> int | None:
        number = self._sizes.get(tuple(size))
        return None if number is None else row * len(self._sizes) + number

    def _merge(self) -> None:
        if not self._recent:
            return
        recent = np.fromiter(self._recent, np.int64, len(self._recent))
        added = [(key, place) for key, place in self._recent.items() if place is not None]
        kept = ~np.isin(self._keys, recent)
        keys = np.concatenate([self._keys[kept], np.array([key for key, _ in added], np.int64)])
        places = np.array([(part, e.crc32, e.length, e.offset) for _, (part, e) in added], _PLACE)
        places = np.concatenate([self._places[kept], places])
        order = np.argsort(keys)
        self._keys, self._places = keys[order], places[order]
        self._recent = {}
