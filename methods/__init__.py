"""The attention methods, and the one encoder around them. Nothing here imports bench or reports."""
