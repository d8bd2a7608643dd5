"""What a setting does to the pictures: one file per measure, each with the real library behind it."""
