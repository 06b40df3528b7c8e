"""The command line's kit: application, options, progress bars, outputs, mistakes."""
