"""Pair the calls of the port with those of the reference. No framework."""
