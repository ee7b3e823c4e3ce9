"""Ways to run a model server, and to leave nothing of it behind."""
