"""Language codes, language detection, and routing of texts by language."""
