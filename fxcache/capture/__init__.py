"""One call of an `nn.Module` becomes a captured graph: what the forward computes, and what else it does."""
