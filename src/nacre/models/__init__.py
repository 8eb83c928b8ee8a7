"""The language model: families, heads, tokens, loading."""
