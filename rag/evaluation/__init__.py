"""How good a ranking is: test collections, measures, and the run that compares them."""
