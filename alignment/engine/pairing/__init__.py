"""Which call of the port stands for which of the reference. No framework."""
