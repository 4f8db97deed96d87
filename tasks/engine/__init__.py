"""The engine that computes the texts of many shards on one device."""
