"""The addition study."""
