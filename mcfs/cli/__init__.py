"""Arguments, wiring of the rooms, progress and tables on the terminal."""
