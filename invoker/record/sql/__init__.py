"""SQL of the stores: `queries_*.sql`, and the migrations of each store in a directory of its name."""
