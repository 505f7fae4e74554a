"""The embedded profile: everything of Groundtune on one machine, with real parts."""
