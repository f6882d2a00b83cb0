"""What a collection's own words are worth to the ears: a language model mixed from the stock one and its passages."""
