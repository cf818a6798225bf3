"""Translate torch modules to Paddle source: ``program`` (the one torch file), ``operators``, ``layers``, ``classes``."""
