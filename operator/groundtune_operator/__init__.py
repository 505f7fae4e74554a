"""The operator: it observes, plans and makes hold what the three resources say. It never trains, embeds or serves."""
