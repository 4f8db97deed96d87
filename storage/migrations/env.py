"""Alembic's entry: runs migrations on the connection that `storage.migrations.upgrade` hands over.

Then it makes the tables of features that are missing, in the same transaction.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from docmill.storage.core.schema import Base, collections_of_tables

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=False,
    transactional_ddl=True,  # SQLite's is, though Alembic takes it for one that is not: it would commit each revision
)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        # Two upgrades at once take turns; the second finds nothing left to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('docmill.migrations'))"))
        # Other transactions, such as heartbeats, wait behind a statement that waits for a table.
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    context.run_migrations()
    for metadata in collections_of_tables()[1:]:
        metadata.create_all(connection)
