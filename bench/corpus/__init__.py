"""Text and vectors for the benchmarks of large collections."""
