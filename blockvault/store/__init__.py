"""Where a vault's objects lie, and what a host keeps beside them."""
