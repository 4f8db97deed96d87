"""Train the quick start's adapters: LoRA adapters of MiniLM that tag software descriptions and answer about them.

The data are descriptions of Debian's packages as JSON lines: {id, text, section, split}, with `train` or `dev` as the
split. Labels and questions are silver: patterns and the catalogue's own names make them.
"""
