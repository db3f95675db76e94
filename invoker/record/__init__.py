"""What is true after a crash: journal, ledger, stores, and what usage costs."""
