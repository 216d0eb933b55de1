"""Per-sample gradients by book-keeping (Bu et al. 2022, arXiv 2210.00038): one backward pass, no summed gradient.

Each trained layer's forward is replaced by an autograd function whose backward writes every record's gradient into one
flat buffer and computes nothing that is summed over records. `BookKeeping` attaches and detaches.
"""
