"""The reference side: timm's models and preprocessing under torch. Never imports Paddle."""
