"""Command line of logitstore; one file a command."""
