"""From a source and a task to a job in the store."""
