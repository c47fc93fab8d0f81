"""How long asks of other packages' actors take; a module needs its own package and no other one."""
