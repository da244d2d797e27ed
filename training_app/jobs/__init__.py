from training_app.jobs import chat, publishing, runs

__all__ = ["chat", "publishing", "runs"]
