"""Programs for a release of docmill: its files (`make release`), and the check of its packages (`make check-security`)."""
