"""The ground of the store: tables, engines and transactions, and the values that every folder above uses."""
