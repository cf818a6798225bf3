"""The torch side. The only room of the engine that imports torch."""
