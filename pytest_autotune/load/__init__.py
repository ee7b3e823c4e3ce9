"""What loads a server and measures it."""
