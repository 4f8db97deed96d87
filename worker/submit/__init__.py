"""Submit a source and a task as a job in the store."""
