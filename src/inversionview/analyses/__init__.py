"""What is measured of activations: a folder for each verb."""
