"""From PTX to Python: each basic block becomes a function of NumPy operations over many threads at once."""
