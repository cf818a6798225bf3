"""Translate torch modules to Paddle source: ``program`` (imports torch), ``operators``, ``layers``, ``classes``."""
