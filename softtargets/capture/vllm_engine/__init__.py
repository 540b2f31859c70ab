"""Teachers that vLLM runs in this process: what is kept is selected inside its workers."""
