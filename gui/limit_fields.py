"""The limits of an account that a person sets: key, what it is called, and its unit."""

from __future__ import annotations

AMOUNTS = (
    ("max_order_quantity", "Largest quantity of an order", "units"),
    ("max_order_value", "Largest value of an order", "account currency"),
    ("max_position_quantity", "Largest position in a symbol", "units, with what works and what is unknown"),
    ("max_open_value", "Value of all working orders", "account currency"),
    ("max_gross_exposure", "Gross exposure", "account currency, positions either way and open entries"),
    ("max_daily_loss", "Loss in a day", "account currency; over it entries end until the next session"),
)  # fmt: skip
COUNTS = (
    ("max_positions", "Open positions", "symbols at the same time"),
    ("max_orders_per_day", "Orders a day", "of its session"),
    ("max_orders_per_second", "Orders a second", "to its broker"),
)
