"""Zerodha's Kite Connect v3.

Account options: ``product`` (``MIS``, the default: intraday, closed by the broker before the session
ends; ``CNC``, ``NRML``, ``MTF``), the only product whose positions count as the account's own;
``confirmed`` (``static-ip``: see ``adapter.CONFIRM``), without which a live account is not connected.
``user_id``: who logs in to Kite's shared sandbox.

Not tradable here: MCX, CDS and BCD, whose contract multipliers are not in Kite's instrument list, so
that every limit in money would be wrong by a factor of up to thousands.
"""
