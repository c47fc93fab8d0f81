"""How long other packages take to fill and to re-use their kernel caches; each script runs by itself."""
