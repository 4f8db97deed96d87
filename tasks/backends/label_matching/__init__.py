"""Models that hold labels against the parts of a text."""
