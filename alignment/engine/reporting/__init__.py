"""A result as text, JSON or a page. No framework."""
