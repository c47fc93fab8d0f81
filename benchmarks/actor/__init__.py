"""What ``benchmarks.dispatch`` measures: asks of actors, and what they are measured beside."""
