"""Two initialisations compared, and why they differ. No framework."""
