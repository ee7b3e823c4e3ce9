"""Find the model-server configuration with the highest throughput that keeps its SLOs, as pytest tests."""
