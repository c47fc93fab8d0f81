"""Programs that measure flashactor; run them from a checkout with ``python -m benchmarks.<name>``."""
