"""What surrounds the product: stand-in, nested templates, set-up, builds, guide, decisions."""
