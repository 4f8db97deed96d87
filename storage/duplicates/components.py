"""Connected components of a graph whose edges come one by one: union-find over an array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class Components:
    """`n` nodes, each in a component of its own until edges join them. The smallest node stands for a component."""

    def __init__(self, n: int) -> None:
        self._parent: Ids = np.arange(n, dtype=np.int64)

    def join(self, one: int, other: int) -> None:
        """Join the components of two nodes."""
        parent = self._parent
        first, second = self._root(one), self._root(other)
        parent[max(first, second)] = min(first, second)

    def roots(self, nodes: Ids) -> Ids:
        """Return the smallest nodes of the components of these nodes."""
        found = self._parent[nodes]
        while True:
            above = self._parent[found]
            if (above == found).all():
                self._parent[nodes] = found
                return found
            found = above

    def are_apart(self, ones: Ids, others: Ids) -> npt.NDArray[np.bool_]:
        """Return for each pair True if no path joins its nodes."""
        apart: npt.NDArray[np.bool_] = self.roots(ones) != self.roots(others)
        return apart

    def _root(self, node: int) -> int:
        parent = self._parent
        while (above := int(parent[node])) != node:
            parent[node] = parent[above]
            node = above
        return node
