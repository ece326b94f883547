"""The `penstock` command. Each subcommand is a module of its own that is imported when it is used."""
