"""The base of the store: tables, engines, transactions, and values that all other packages of the store use."""
