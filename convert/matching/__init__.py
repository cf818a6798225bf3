"""Layers and tensors of any two models paired. No framework."""
