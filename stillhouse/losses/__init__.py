"""What the student is trained with: one divergence a file, and their mix with cross-entropy.

`outcomes.py` reduces the student's logits to what a sparse signal can be compared with, `tail.py` says what stands for
the tokens it leaves out, a divergence is nothing but its formula, and `mix.py` puts them together over the global
count of tokens. `linear.py` does the same from hidden states, in chunks, without ever holding a batch's logits.
"""
