"""What passes work on: the captured graph, blocks, stages, state, guards, and the program that holds them."""
