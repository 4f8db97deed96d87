"""Language codes, language detection, and the route of a text whose language was detected."""
