"""The pages: each is one module with a `PAGE`, and one line in `worker.web.registry`."""
