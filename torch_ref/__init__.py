"""The reference: timm's models and preprocessing in torch. Never imports Paddle."""
