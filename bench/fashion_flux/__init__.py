"""How the model embedded in the package was made, and how to make and measure it again."""
