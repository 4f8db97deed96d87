"""Facts about a model's files: its family, its weights, its prompts and languages. Nothing loads a model."""
