"""Types of output: how each is stored, checked, written and shown."""
