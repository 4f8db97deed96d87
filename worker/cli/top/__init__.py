"""`docmill top`: its view of the store, and its screens."""
