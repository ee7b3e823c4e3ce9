"""Running model servers, and never leaving one behind."""
