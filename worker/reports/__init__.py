"""Reports on a job, as a page that people read."""
