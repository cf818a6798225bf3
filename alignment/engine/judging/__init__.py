"""Measured errors, noise floors and limits become rows. No framework."""
