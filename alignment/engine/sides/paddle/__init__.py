"""The Paddle side. The only room of the engine that imports Paddle."""
