"""Find the layers that are themselves at fault. No framework."""
