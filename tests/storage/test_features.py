"""Features bring tables, rights and rules of retention, and a part that does not load is named."""

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
    """Returns a function that adds a feature to docmill."""

    def made(**parts: object) -> Feature:
        feature = Feature("remarks", **parts)  # type: ignore[arg-type]
        monkeypatch.setattr(features, "built_in_features", lambda: (feature,))
        clear()
        return feature

    def clear() -> None:
        features.features.cache_clear()
        retention.every_rule.cache_clear()

    yield made
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("remarks", "whose name is remarks, a name that is taken"),
        ("others", "whose name is remarks, and calls it others"),
    ],
)
def test_a_name_that_is_taken_or_another_one_is_refused(bring: Bring, name: str, reason: str) -> None:
    bring(retention={name: f"{__name__}:REMARKS"})
    own = [REMARKS] if name == "remarks" else []
    with pytest.raises(StorageError, match=f"^the feature remarks brings {__name__}:REMARKS, {reason}$"):
        features.load_by_name("retention", retention.Rule, own)


def test_workers_need_the_rights_that_a_feature_names(bring: Bring) -> None:
    bring(worker_rights={"remark": ("SELECT",)}, order_rights={"remark": ("SELECT", "INSERT")})
    assert privileges.worker_rights() == {**privileges.WORK, "remark": ("SELECT",)}
    assert privileges.order_rights()["remark"] == ("SELECT", "INSERT")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (
            "gone:RULE",
            r"which cannot be loaded \(ModuleNotFoundError: .* 'gone'\); repair it or uninstall it",
        ),
        (f"{__name__}:GONE", r"which cannot be loaded \(AttributeError: .*\); repair it or uninstall it"),
        (f"{__name__}:Remark", "which is not a Rule"),
    ],
)
def test_a_part_that_cannot_be_used_is_named_with_its_feature(reference: str, reason: str, bring: Bring) -> None:
    bring(retention={"remarks": reference})
    with pytest.raises(StorageError, match=f"^the feature remarks brings {reference}, {reason}$"):
        retention.every_rule()
