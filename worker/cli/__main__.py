"""The `docmill` command, for a process that another command starts."""

from docmill.worker.cli import main

if __name__ == "__main__":
    main()
