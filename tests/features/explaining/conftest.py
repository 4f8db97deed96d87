"""Real models, as the tests of tasks have them."""

from tests.tasks.conftest import bench, benches, cache_dir

__all__ = ["bench", "benches", "cache_dir"]
