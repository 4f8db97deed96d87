"""Use cases: what the command line, the Python API and the web page do. They return values and tell a listener."""
