"""Report a result as text, JSON or an HTML page. No framework."""
