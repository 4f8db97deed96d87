"""Programs for a release: its files (`make release`), and the check of its packages (`make check-security`)."""
