"""What sources say of one preimage, against each other."""
