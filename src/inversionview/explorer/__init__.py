"""The explorer: readings to look at, in a browser, in a notebook and in a file to send."""
