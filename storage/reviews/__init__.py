"""Reviews: the outputs that a sample is drawn from, and what people said of them."""
