"""The exchanges of ccxt (https://docs.ccxt.com): an optional extra, ``pip install 'volley[ccxt]'``.

For exchanges that Volley does not speak natively. One adapter for all of them, over ccxt's async API:
``broker = "ccxt"``, options ``exchange`` (ccxt's id, required), ``type`` (spot, margin, swap or future),
``quote_asset`` (whose money counts, USDT) and ``day_as_gtc`` (yes: day limit orders are sent as gtc);
credentials ``key_id``, ``secret``, ``password``, ``uid``. Symbols are ccxt's: BTC/USDT, BTC/USDT:USDT.

Its limits, against a native adapter:

* What a client id promises is not known per exchange: the capability is ``label``, so an order whose outcome
  is unknown is looked up and never sent again by itself.
* Market and limit orders only. Stops, targets and trails are the engine's own protective exits.
* No amending: ccxt's ``edit_order`` is, where an exchange has none, a cancel and a new order.
* Order updates are read by polling, at most once a second and within the exchange's rate limit.
* Every order costs ccxt's own 0.3 to 0.5 ms of CPU.
* Numbers pass through ccxt's floats: an order that a float does not carry exactly is refused, and what is
  read is the shortest decimal a float stands for (exact to 15 digits).
* Equity is the quote asset's total; other coins are not counted.
"""
