"""What is served: the student, the teacher, and the gateway that asks one or the other."""
