"""Privacy events, their (eps, delta), and the ledger that refuses."""
