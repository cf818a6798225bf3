"""Two pipelines of images compared, and why they differ. No framework."""
