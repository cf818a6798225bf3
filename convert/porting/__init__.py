"""Port a torch module: translate it, prove it layer by layer, and write the folder with its weights and its card."""
