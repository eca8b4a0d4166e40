"""Native maps in a target: profiles, USDT probes, the places that both lead to."""
