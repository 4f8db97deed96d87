"""Reviews: draw a sample of a step's outputs, judge them, and estimate the share of good ones."""
