"""Make specs from a task kind, a model's name and options."""
