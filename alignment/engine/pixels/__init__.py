"""Compare two image pipelines and explain their differences. No framework."""
