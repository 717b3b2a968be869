"""`dcp run`: the same decisions on this machine, with processes instead of Jobs."""
