"""Results of a job as lines, files and folders of parts, and the status of jobs and corpora."""
