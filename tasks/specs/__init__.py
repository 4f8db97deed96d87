"""From a model's name and options to a spec."""
