"""Binance Spot: REST API v3 for orders and look-ups, WebSocket API v3 for the order stream.

Source: github.com/binance/binance-spot-api-docs at a5e0bc3 (2026-07-21). Options of an account: ``venue`` (``demo``:
the demo exchange), ``quote_asset`` (what equity is counted in, default ``USDT``), ``day_as_gtc`` (``yes``: a resting
``day`` order is sent as ``GTC``; Binance has no day orders, so without it they are refused).

What the broker does that a trader may not expect:

* commissions on a buy are taken out of what was bought unless the account pays them in BNB: a fill of 1 may leave
  0.999. Positions are read from balances, so they say what is really there; an exit of the whole fill may then lack
  what the commission took, and ends as ``EXPIRED`` with the reason ``REJECTED``;
* exits sent along with an entry (OTO, OTOCO) enter the market when the entry is filled completely, not before; if it
  is canceled partly filled, they are canceled with it. One of them canceled or replaced ends them all;
* reading costs request weight by the address, 6,000 a minute: an account's open orders 80, its balances 20. Reads
  keep to 70 % of it, so that the first reconciliation of 300 accounts takes some eight minutes.
"""
