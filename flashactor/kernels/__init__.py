"""From a request to a launch, in pure functions: which kernel, which tile, which parameters."""
