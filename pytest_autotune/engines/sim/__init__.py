"""The embedded engine: a simulated model server behind a real HTTP front."""
