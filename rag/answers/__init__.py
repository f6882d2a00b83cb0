"""Grounded answers: passages in, sentences with numbered citations out, by a model or by quoting the passages."""
