"""Tests of the patterns of personal data."""
