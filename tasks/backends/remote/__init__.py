"""Models on a server with OpenAI's API: vLLM, llama.cpp, TGI, Ollama, and hosted services."""
