"""A torch module becomes Paddle source: see ``program`` (the one torch file), ``operators``, ``layers``, ``classes``."""
