from training_app.jobs import publishing, runs

__all__ = ["publishing", "runs"]
