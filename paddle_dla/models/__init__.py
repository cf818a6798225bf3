"""The DLA family. Importing this package imports no framework; ``factory`` and ``dla`` import Paddle."""
