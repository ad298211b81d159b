"""The tasks: data with splits, a metric and a head. Nothing here imports methods, bench or reports."""
