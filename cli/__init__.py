"""The command line: spells the library with dashes, and computes nothing."""
