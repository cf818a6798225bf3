"""The Paddle side: the only subpackage of the engine that imports Paddle."""
