"""`python -m docmill` is the `docmill` command. With the name of a module of docmill it runs that module."""

import gc
import runpy
import signal
import sys


def main() -> None:
    """Run the `docmill` command. While it loads, a Ctrl-C ends it at once and prints no traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from docmill.worker import cli

    cli.main()


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("docmill."):
        # Importing libraries makes some hundred thousand objects and no garbage.
        gc.set_threshold(200_000, 1, 1)
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        main()
