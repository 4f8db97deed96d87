"""Features: each a folder of its own."""
