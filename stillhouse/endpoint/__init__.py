"""OpenAI-compatible endpoints, as captures, API students and the gateway ask them."""
