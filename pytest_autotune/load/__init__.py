"""Loading a server and measuring what it answers."""
