"""State dicts between timm and Paddle: names and arrays. The core imports no framework; see ``conversion``."""
