"""What can only be checked on a GPU: correctness of every kernel on it, then speed beside PyTorch's."""
