"""End to end, sans-IO: what two clients say to each other past the server, which here is the attacker."""
