"""Files of requests in OpenAI's batch format: read them, compute them as jobs, and put their answers together."""
