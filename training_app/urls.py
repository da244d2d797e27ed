from django.urls import path

from training_app.views import chat, compare, evaluations, overview, runs, sweeps

urlpatterns = [
    path("projects/<int:pk>/", overview.project, name="project"),
    path("models/", overview.base_models, name="base_models"),
    path("projects/<int:project>/runs/", runs.run_list, name="run_list"),
    path("projects/<int:project>/runs/new", runs.run_create, name="run_create"),
    path("projects/<int:project>/runs/compare", compare.run_compare, name="run_compare"),
    path("runs/<int:pk>/", runs.run, name="run"),
    path("runs/<int:pk>/body", runs.run_body, name="run_body"),
    path("runs/<int:pk>/metrics.json", runs.run_metrics, name="run_metrics"),
    path("runs/<int:pk>/log", runs.run_log, name="run_log"),
    path("runs/<int:pk>/config.yaml", runs.run_config, name="run_config"),
    path("runs/<int:pk>/samples", runs.run_samples, name="run_samples"),
    path("runs/<int:pk>/spec.json", runs.run_spec, name="run_spec"),
    path("runs/<int:pk>/start", runs.run_start, name="run_start"),
    path("runs/<int:pk>/stop", runs.run_stop, name="run_stop"),
    path("runs/<int:pk>/resume", runs.run_resume, name="run_resume"),
    path("runs/<int:pk>/again", runs.run_again, name="run_again"),
    path("runs/<int:pk>/checkpoint", runs.run_checkpoint, name="run_checkpoint"),
    path("runs/<int:pk>/sweep", sweeps.sweep_create, name="sweep_create"),
    path("sweeps/<int:pk>/", sweeps.sweep, name="sweep"),
    path("sweeps/<int:pk>/body", sweeps.sweep_body, name="sweep_body"),
    path("sweeps/<int:pk>/stop", sweeps.sweep_stop, name="sweep_stop"),
    path("runs/<int:pk>/evaluate", evaluations.evaluation_create, name="evaluation_create"),
    path("evaluations/<int:pk>/", evaluations.evaluation, name="evaluation"),
    path("evaluations/<int:pk>/body", evaluations.evaluation_body, name="evaluation_body"),
    path("runs/<int:pk>/chat/", chat.chat, name="chat"),
    path("runs/<int:pk>/chat/ask", chat.chat_ask, name="chat_ask"),
    path("chat/turns/<int:pk>.json", chat.chat_turn, name="chat_turn"),
]
