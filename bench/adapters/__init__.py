"""Train the quick start's LoRA adapters of MiniLM. They tag and classify software descriptions, and answer questions.

The data are descriptions of Debian's packages as JSON lines: {id, text, section, split}. The split is `train` or
`dev`. The labels and questions are silver: patterns and the catalogue's names made them, and no person.
"""
