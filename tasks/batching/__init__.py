"""The pool of windows that wait for the device, and the choice of batches from it."""
