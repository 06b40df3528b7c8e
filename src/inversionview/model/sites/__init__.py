"""Sites: what a tap of the model gives, and how a site is read from and written to it; a file for each kind."""
