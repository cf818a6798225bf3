"""A torch module becomes a port folder: translated, proved layer by layer, written with its weights and its card."""
