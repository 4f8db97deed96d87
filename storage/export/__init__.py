"""Results as a reader wants them: lines, files, folders of parts."""
