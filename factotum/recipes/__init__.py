"""Where systems, worlds and training meet: one file a command."""
