"""Features bring tables, rights and retention rules, and a part that cannot be loaded is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import ForeignKey, insert, select

from docmill.storage import features, migrations
from docmill.storage.core import privileges
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base, Content, column, new_metadata
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, retention
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import SchemaOutOfDate, StorageError
from docmill.storage.features import Feature

Bring = Callable[..., Feature]


METADATA = new_metadata()


class Remark(Base):
    """A remark on a text."""

    metadata = METADATA
    __tablename__ = "remark"
    content_id = column(int, ForeignKey(Content.__table__.c.id, ondelete="CASCADE"), primary_key=True)
    remark = column(str)


REMARKS = retention.Rule("remarks", lambda *_: Removed(others=3), lambda *_: {"remark": 3})


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bring]:
    """Yield a function that adds a feature to docmill."""

    def add_feature(**parts: object) -> Feature:
        feature = Feature("remarks", **parts)  # type: ignore[arg-type]
        monkeypatch.setattr(features, "built_in_features", lambda: (feature,))
        clear()
        return feature

    def clear() -> None:
        features.features.cache_clear()
        retention.every_rule.cache_clear()

    yield add_feature
    clear()


def test_tables_of_a_feature_are_made_and_required(bare_database: Database, bring: Bring) -> None:
    migrations.upgrade(bare_database)
    bring(tables=[f"{__name__}:METADATA"])
    assert migrations.is_behind(bare_database)
    with pytest.raises(SchemaOutOfDate, match=r"lacks tables of features \(remark\); run `docmill db upgrade`"):
        migrations.require_current(bare_database)
    assert migrations.upgrade(bare_database) == (migrations.head(), migrations.head())
    migrations.require_current(bare_database)
    assert not migrations.is_behind(bare_database)

    def write(transaction: Transaction) -> None:
        values = {"sha256": hashlib.sha256(b"a").digest(), "text": "a", "n_chars": 1}
        content_id = transaction.execute(insert(Content).values(values).returning(Content.id)).scalar_one()
        transaction.execute(insert(Remark).values(content_id=content_id, remark="short"))

    bare_database.write(write)
    assert gc.collect(bare_database).contents == 1
    assert bare_database.rows(select(Remark.remark)) == []


def test_rules_of_a_feature_are_applied_and_counted(database: Database, bring: Bring) -> None:
    bring(retention={"remarks": f"{__name__}:REMARKS"})
    ages = {"remarks": 60.0}
    assert retention.count(database, ages) == {"remarks": {"remark": 3}}
    assert retention.apply(database, ages) == ({"remarks": 3, "texts": 0}, True)


def test_workers_need_the_rights_that_a_feature_names(bring: Bring) -> None:
    bring(worker_rights={"remark": ("SELECT",)}, order_rights={"remark": ("SELECT", "INSERT")})
    assert privileges.worker_rights() == {**privileges.WORK, "remark": ("SELECT",)}
    assert privileges.order_rights()["remark"] == ("SELECT", "INSERT")


@pytest.mark.parametrize(
    ("name", "reference", "reason"),
    [
        ("others", "REMARKS", "whose name is remarks, and calls it others"),
        ("remarks", "REMARKS", "whose name is remarks, a name that is taken"),
        (
            "others",
            "gone:RULE",
            r"which cannot be loaded \(ModuleNotFoundError: .* 'gone'\); repair it or uninstall it",
        ),
        ("others", "GONE", r"which cannot be loaded \(AttributeError: .*\); repair it or uninstall it"),
        ("others", "Remark", "which is not a Rule"),
    ],
)
def test_an_unusable_part_is_named_with_its_feature(name: str, reference: str, reason: str, bring: Bring) -> None:
    reference = reference if ":" in reference else f"{__name__}:{reference}"
    bring(retention={name: reference})
    built_in = [REMARKS] if name == "remarks" else []
    with pytest.raises(StorageError, match=f"^the feature remarks brings {reference}, {reason}$"):
        features.load_by_name("retention", retention.Rule, built_in)
