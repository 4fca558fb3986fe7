"""Other ways to call the app: Boutiques and brainlife."""
