"""How other packages fill and re-use their kernel caches; a module needs its own peer and no other one."""
