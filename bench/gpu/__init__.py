"""Measure the speed of this machine's device, beside direct use of the libraries.

The models have random weights of real sizes, but for the translator, which comes with docmill; so no model hub is
needed. Embedding, classification, translation and generation are measured, each in turns with the libraries at their
best batch size, in the same precision. Greedy outputs are compared with those of transformers. A part that there is
no time left for is skipped, and the results say so. They are written after each part.
"""
