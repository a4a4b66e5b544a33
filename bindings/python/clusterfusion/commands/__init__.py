"""The commands of python -m clusterfusion, one in each file: its arguments, and what it does."""
