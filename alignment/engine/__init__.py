"""The comparison engine, independent of any model: ``session`` runs a comparison, the subpackages are its steps."""
