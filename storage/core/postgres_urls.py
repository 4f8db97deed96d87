"""URL schemes that mean PostgreSQL, including those of hosting companies and other libraries.

The driver is always psycopg, whatever a URL names.
"""

POSTGRESQL = frozenset(
    {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "postgresql+pg8000"}
)
