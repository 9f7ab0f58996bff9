"""The command line: passes arguments to the library, and computes nothing itself."""
