"""What the student is trained with: one divergence a file, and their mix.

Every loss takes the student's logits at the positions that predict completion tokens and gives one value a token;
the sum over tokens is divided by the global count of tokens in one place, `mix.distillation_loss`.
"""
