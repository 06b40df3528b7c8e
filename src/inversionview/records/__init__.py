"""What users' files hold, whichever form they have."""
