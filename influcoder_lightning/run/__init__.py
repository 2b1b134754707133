"""What every recipe stands on: settings, materials, run folders, progress, and the `Recipe`."""
