"""Named benchmarks with goals: ``python -m benchmarks`` (see README.md)."""
