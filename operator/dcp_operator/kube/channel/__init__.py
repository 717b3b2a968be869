"""The channel to training jobs: one port that their agents post to, and what is known of each of them."""
