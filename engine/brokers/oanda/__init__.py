"""OANDA v20: FX and CFDs."""
