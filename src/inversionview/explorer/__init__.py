"""The explorer: live readings in the browser, and the API behind them."""
