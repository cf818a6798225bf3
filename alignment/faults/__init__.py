"""Porting mistakes that are injected on purpose, to check that the comparison finds them."""
