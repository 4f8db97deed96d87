"""The rules of retention: what each removes, and the age from which on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Rule:
    """A rule of retention. An `is_kept` one does nothing until it has an age; the others have that of upkeep."""

    name: str
    about: str
    is_kept: bool = False


RULES = (
    Rule("runs", "ended runs of pipelines with their jobs; each pipeline keeps its last run of each state"),
    Rule("step_texts", "the texts that steps of ended jobs met, which `docmill retry` needs"),
    Rule("rejections", "the rejected records of ended jobs; their number stays"),
    Rule("refusals", "the reasons why workers refused a spec", is_kept=True),
    Rule("shards", "finished shards of ended jobs: one row for each step keeps their sums", is_kept=True),
    Rule("versions", "superseded versions of documents, with their results", is_kept=True),
    Rule("results", "results that no job, pipeline, migration, index or judgement needs", is_kept=True),
)
NAMES = tuple(rule.name for rule in RULES)
RESULTS = "results"  # the rule that a spec notes when it dropped results of it
DAY_S = 86_400.0


@dataclass(frozen=True)
class Ages:
    """The age in seconds from which each rule removes; a rule that is not there removes nothing."""

    of: Mapping[str, float]

    def __post_init__(self) -> None:
        unknown = sorted({*self.of} - {*NAMES})
        assert not unknown, f"no rule is called {unknown}"

    @classmethod
    def upkeep(cls, age_s: float, **others: float) -> Ages:
        """Return the ages of the rules that work by themselves, all the same unless `others` names one."""
        itself = {rule.name: age_s for rule in RULES if not rule.is_kept}
        return cls(MappingProxyType(itself | others))

    def get(self, rule: str) -> float | None:
        return self.of.get(rule)
