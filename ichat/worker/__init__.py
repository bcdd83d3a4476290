"""The process that holds one engine with one model."""
