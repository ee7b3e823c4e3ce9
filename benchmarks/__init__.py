"""Programs that measure this package against the truth."""
