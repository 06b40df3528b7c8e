"""The explorer: readings in the browser, live from a server, in one file to send, or in a notebook."""
