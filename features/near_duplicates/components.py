"""Connected components of a graph whose edges come one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class Components:
    """The components of `n` nodes. Each node is alone until edges join it. The smallest node names a component."""

    def __init__(self, n: int) -> None:
        self._roots: Ids = np.arange(n, dtype=np.int64)
        self._edges: list[tuple[int, int]] = []  # which the roots do not have yet

    def join(self, node: int, other: int) -> None:
        """Join the components of two nodes."""
        self._edges.append((node, other))

    def roots(self, nodes: Ids) -> Ids:
        """Return the smallest nodes of the components of these nodes."""
        if self._edges:
            self._settle()
        return self._roots[nodes]

    def are_apart(self, ones: Ids, others: Ids) -> npt.NDArray[np.bool_]:
        """Return for each pair True if no path joins its nodes."""
        apart: npt.NDArray[np.bool_] = self.roots(ones) != self.roots(others)
        return apart

    def _settle(self) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = len(self._roots)
        ones, others = self._roots[np.array(self._edges, np.int64)].T
        graph = coo_array((np.ones(len(ones), np.bool_), (ones, others)), shape=(n, n))
        n_components, component = connected_components(graph, directed=False)
        smallest = np.empty(n_components, np.int64)
        smallest[component[::-1]] = np.arange(n)[::-1]  # the last write stays
        self._roots = smallest[component][self._roots]
        self._edges = []
