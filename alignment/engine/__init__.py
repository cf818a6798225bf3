"""The comparison itself; it knows no model. ``session`` runs one, the rooms are its steps."""
