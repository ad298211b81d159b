"""The measurement passes, one a module; none carries the hooks of another."""
