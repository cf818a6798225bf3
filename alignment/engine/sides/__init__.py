"""The two sides of a comparison: borrow, read, run and train a model of either framework."""
