"""Results: the types of outputs, and how each is stored, written and shown."""
