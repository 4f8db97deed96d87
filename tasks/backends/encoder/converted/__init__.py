"""Encoders converted to another library. Each opening compares the outputs with the model's own code."""
