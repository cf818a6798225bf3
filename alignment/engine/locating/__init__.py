"""Which layers are at fault themselves. No framework."""
