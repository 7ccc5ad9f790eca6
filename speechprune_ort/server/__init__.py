"""``speechprune-ort serve``: a bundle behind OpenAI's protocol. Needs the extra ``[serve]``."""
