"""The actor: messages, replies and the receive loop."""
