"""The one training loop, for every task and method."""
