// The chat page: answers grow as they are written; when a turn is done, or live updates fail, the list is read again.
(() => {
  const early = new Map();  // turn → news that came before its card

  function take(news) {
    const { turn, state, ...answers } = news;
    const card = document.querySelector(`[data-turn="${turn}"]`);
    if (!card) { early.set(turn, { ...early.get(turn), ...news }); return; }
    early.delete(turn);
    for (const which of ["tuned", "base"]) {
      const text = answers[`${which}_answer`];
      if (text !== undefined) card.querySelector(`[data-answer="${which}"]`).textContent = text;
    }
    if (state) card.dataset.turnState = state;
  }

  function refresh() {
    const list = document.querySelector("[data-turns]");
    const isOpen = list?.querySelector('[data-turn-state="waiting"], [data-turn-state="answering"]');
    if (isOpen && !list.querySelector("[data-prompt]").value) htmx.trigger(list, "chat-refresh");  // nobody's half sentence is lost
  }

  document.addEventListener("live:chat", (event) => take(event.detail.body));
  document.addEventListener("htmx:afterSettle", () => early.forEach(take));
  document.addEventListener("live:poll", refresh);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && event.target.matches("[data-prompt]")) { event.preventDefault(); event.target.form.requestSubmit(); }
  });
})();
