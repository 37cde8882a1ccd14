"""Measurements that anyone can repeat; what came of them is in RESULTS.md."""
