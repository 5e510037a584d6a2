"""The stages of an attribution: each one function in a file of its name, whose signature is its options."""
