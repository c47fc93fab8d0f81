"""PTX as data: the parser, and the order in which its basic blocks are run."""
