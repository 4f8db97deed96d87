"""KEDA and the Horizontal Pod Autoscaler as functions of a backlog, by their documented algorithms.

KEDA starts the first replica when a reading finds work, and removes the last one `cooldown_s` after the last reading
that did. Between these, the autoscaler wants one replica for each `target` of the backlog. A difference within a
tenth changes nothing. It adds at most four replicas or as many as there are, and removes replicas only down to the
highest wish of the last `stabilization_s`.
https://keda.sh/docs/latest/concepts/scaling-deployments
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

SYNC_S = 15  # seconds between two decisions of the autoscaler
TOLERANCE = 0.1


@dataclass(frozen=True)
class Rule:
    """A ScaledObject with one trigger, whose target is a value for each replica."""

    min: int
    max: int
    target: float
    polling_s: int
    cooldown_s: int
    stabilization_s: int

    @classmethod
    def of(cls, scaled_object: dict[str, Any]) -> Rule:
        spec = scaled_object["spec"]
        [trigger] = spec["triggers"]
        assert trigger["metricType"] == "AverageValue"
        assert float(trigger["metadata"]["activationTargetQueryValue"]) == 0
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["policies"] == [{"type": "Percent", "value": 100, "periodSeconds": SYNC_S}]
        return cls(
            spec["minReplicaCount"],
            spec["maxReplicaCount"],
            float(trigger["metadata"]["targetQueryValue"]),
            spec["pollingInterval"],
            spec["cooldownPeriod"],
            down["stabilizationWindowSeconds"],
        )


class Fleet(Protocol):
    """Work that is open, second by second."""

    def after(self, second: int, replicas: int) -> float:
        """Return the number of open shards after a second in which so many replicas ran."""


def replicas(rule: Rule, fleet: Fleet, seconds: int) -> list[int]:
    """Return the number of replicas in each second."""
    n, active_at = rule.min, -math.inf
    wishes: list[tuple[int, int]] = []  # of the autoscaler, with their seconds
    found = []
    for second in range(seconds):
        backlog = fleet.after(second, n)
        if second % rule.polling_s == 0:
            if backlog > 0:
                n, active_at = max(n, rule.min, 1), second
            elif rule.min == 0 and second - active_at > rule.cooldown_s:
                n = 0
        if second % SYNC_S == 0 and n > 0:
            wishes = [(at, wish) for at, wish in wishes if at > second - rule.stabilization_s]
            wishes.append((second, _wish(rule, backlog, n)))
            n = _next(n, wishes)
        found.append(n)
    return found


def _wish(rule: Rule, backlog: float, n: int) -> int:
    """Return the number of replicas for a backlog."""
    if abs(backlog / (rule.target * n) - 1) <= TOLERANCE:
        return n
    return min(max(math.ceil(backlog / rule.target), rule.min, 1), rule.max)


def _next(n: int, wishes: list[tuple[int, int]]) -> int:
    """Return the number of replicas after a decision."""
    wish = wishes[-1][1]
    if wish > n:
        return min(wish, max(n + 4, 2 * n))
    return min(n, max(wish for _, wish in wishes))
