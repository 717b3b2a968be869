"""A Save of a training that runs already: which of its agents is asked, and what becomes of the request."""
