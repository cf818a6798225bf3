"""A torch module becomes Paddle source: ``program`` (the one torch file), ``operators``, ``layers``, ``classes``."""
