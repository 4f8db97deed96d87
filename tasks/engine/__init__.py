"""The engine: texts in from many threads, one thread that keeps the device busy, one outcome for each text."""
