"""The words of the trade, pure: no I/O, no clock, no loop."""
