"""Pair the layers and tensors of any two models. No framework."""
