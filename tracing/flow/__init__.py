"""How information flows to the answer: attention knocked out, and what the subject and the last token then hold."""
