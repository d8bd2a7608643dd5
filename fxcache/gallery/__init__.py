"""What a setting does, for the eye: samples plain and cached, their difference, and which steps were hits."""
