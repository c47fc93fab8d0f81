"""Is a compiled kernel what its specification promises? What the cubin says, and what its PTX computes."""
