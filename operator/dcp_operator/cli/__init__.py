"""The program `dcp`."""
