"""What every other folder may use: errors, configs and safe file writing. Knows no other folder."""
