"""The torch side: the only subpackage of the engine that imports torch."""
