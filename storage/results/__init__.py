"""Results of a job as lines, files and folders of parts; the state of jobs and corpora."""
