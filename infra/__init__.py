"""What surrounds the product: the offline stand-in and the decisions on record."""
