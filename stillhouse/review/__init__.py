"""Human review: a stratified sample of the teacher's completions, what people say of them, and what follows."""
