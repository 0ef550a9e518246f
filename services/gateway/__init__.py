"""The gateway: an OpenAI endpoint that asks the student first, and the teacher where the student is not sure enough."""
