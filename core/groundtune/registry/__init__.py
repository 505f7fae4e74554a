"""The registry in Postgres: what exists, what is live, what every run did and used."""
