"""The launcher of a pod: asks the store, forks the ranks, supervises them, writes one Report. Loads no torch."""
