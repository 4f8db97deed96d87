"""The torture table: ten mishaps of a batch job, with docmill and with other tools.

``peers/`` has the program that a user of each tool would write. ``counting/`` counts the texts that the model
computes, in the same way for all tools. ``outputs`` compares a tool's output with the expected one. ``programs``
starts and kills programs, and ``rows`` has the mishaps.
"""
