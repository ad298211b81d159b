"""Thin adapters to schedulers that exist: each gets cells to run by `bench/one.py` on a shared folder."""
