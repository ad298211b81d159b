"""The harness: it plans cells, runs each in a process of its own, measures, and stores what came out."""
