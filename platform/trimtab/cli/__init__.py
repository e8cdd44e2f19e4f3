"""The command line: parse, call a driver, print.

Results go to stdout and everything else (progress, warnings, errors) to stderr. No command holds
logic of its own, and no room imports this one.
"""
