"""What people and machines read of a run: terminal, exported configuration, JUnit."""
