"""A network as files that run without this package: made, described, checked, and opened again."""
