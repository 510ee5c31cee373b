"""Runner processes, as the driver sees them."""
