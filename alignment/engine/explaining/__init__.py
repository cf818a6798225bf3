"""Explain why a layer, or a part of a training, is at fault. No framework."""
