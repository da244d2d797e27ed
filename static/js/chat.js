// The chat page: answers grow as they are written; when a turn is done, or live updates fail, the list is read again.
(() => {
  const refresh = () => { const list = document.querySelector("[data-turns]"); if (list) htmx.trigger(list, "chat-refresh"); };

  document.addEventListener("live:chat", (event) => {
    const { turn, state, ...answers } = event.detail.body;
    const card = document.querySelector(`[data-turn="${turn}"]`);
    if (!card) return;
    for (const which of ["tuned", "base"]) {
      const text = answers[`${which}_answer`];
      if (text !== undefined) card.querySelector(`[data-answer="${which}"]`).textContent = text;
    }
    if (state === "done") card.dataset.turnState = "done";
  });
  document.addEventListener("live:poll", () => { if (document.querySelector('[data-turn-state="waiting"], [data-turn-state="answering"]') && document.activeElement?.value !== undefined ? !document.activeElement.value : true) refresh(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && event.target.matches("[data-prompt]")) { event.preventDefault(); event.target.form.requestSubmit(); }
  });
})();
