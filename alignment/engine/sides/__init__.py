"""The two models of a comparison: how either is borrowed, read, run and trained."""
