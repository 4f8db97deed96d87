"""Reviews: the outputs that a sample is drawn from, the judgements, and the risks fitted to them."""
