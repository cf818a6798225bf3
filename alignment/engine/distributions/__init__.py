"""Compare two initialisations and explain their differences. No framework."""
