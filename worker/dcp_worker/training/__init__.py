"""The user's model and optimizer: built, sharded, and made into a state dict."""
