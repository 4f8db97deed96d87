"""The torture table: ten mishaps of a batch job, with docmill and with other tools.

``peers/`` has the program that a user of each tool would write. ``counting/`` counts each text that goes through the
model, in the same way for all tools. ``outputs`` compares what lies in a tool's output with what should be there,
``programs`` starts and kills programs, and ``rows`` are the mishaps.
"""
