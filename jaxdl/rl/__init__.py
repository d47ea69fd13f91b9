"""Environments and the algorithms that learn to act in them; each algorithm is a Task."""
