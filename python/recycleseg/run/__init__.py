"""What a run is: its configuration, its folder, and the objects that these describe."""
