"""The schemes of a URL that mean PostgreSQL: as hosting companies and other libraries write it.

The driver is always psycopg, whatever a URL names.
"""

POSTGRESQL = frozenset(
    {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "postgresql+pg8000"}
)
