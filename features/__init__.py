"""Features: folders beside the core, each with all of its own code. They do not import each other.

`features/NAME/__init__.py` holds a `Feature`, and `storage/features.py` lists its module. The core knows no more of
it: without the folder and its line, docmill works as before.
"""
