"""Studies beside the product: what checks scores, and needs no store."""
