"""Mistakes of porting that are made on purpose, to see that the comparison finds them."""
