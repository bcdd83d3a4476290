"""The proof on a GPU: what can only be seen there, run by one command (`make gpu-proof`), told in one report."""
