"""Measure the speed of this machine's device, beside direct use of the libraries.

The parts are embedding, classification, translation and generation. docmill and a library run in turns, in the same
precision, and the library at its best batch size. Greedy outputs are compared with those of transformers.

The translator comes with docmill. The other models have real sizes and random weights, so no model hub is needed. The
results are written after each part. If no time is left for a part, it is skipped, and the results say so.
"""
