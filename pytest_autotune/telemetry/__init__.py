"""What a server and its machine say while they are loaded."""
