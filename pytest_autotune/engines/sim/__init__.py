"""The embedded engine: an OpenAI-compatible server process around a model of continuous batching."""
