"""The parts of transformers with which encoders are opened, imported as one.

The library loads its parts when they are first named, so `import transformers` alone imports next to nothing.
"""

from docmill.tasks.backends import accelerator

with accelerator.quiet():  # which does without SciPy
    from transformers import AutoConfig, AutoModel, AutoTokenizer

__all__ = ["AutoConfig", "AutoModel", "AutoTokenizer"]
