"""From files to batches: sources, decoding, transforms, mixing, loading. Never imports Paddle (workers are cheap)."""
