"""PostgreSQL refuses a text under the hash of another. SQLite has no users, and docmill compares there."""

from __future__ import annotations

from alembic import op

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE content ADD CONSTRAINT ck_content_sha256 CHECK (sha256 = sha256(convert_to(text, 'UTF8')))"
        )
