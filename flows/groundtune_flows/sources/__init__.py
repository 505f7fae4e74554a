"""Where documents and examples come from: a module for each kind of source, `discovery` over them all."""
