"""From the kept tokens and a question to an answer."""
