"""Results for people, dashboards and the next deployment."""
