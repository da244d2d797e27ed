// The chat page: a turn that is being answered is read again whenever its run says that there is more, or by polling.
(() => {
  function show(card, turn) {
    card.dataset.turnState = turn.state;
    for (const which of ["tuned", "base"]) {
      const answer = turn[`${which}_answer`], seconds = turn[`${which}_seconds`];
      if (answer) card.querySelector(`[data-answer="${which}"]`).textContent = answer;
      if (seconds !== null) card.querySelector(`[data-seconds="${which}"]`).textContent = ` · ${seconds.toFixed(1)} s`;
    }
  }

  // One request at a time for a turn; news that came meanwhile asks once more.
  async function read(card) {
    if (card.dataset.reading) { card.dataset.reading = "again"; return; }
    card.dataset.reading = "once";
    const answer = await fetch(card.dataset.turnUrl).catch(() => null);
    if (answer?.ok) show(card, await answer.json());
    const again = card.dataset.reading === "again";
    delete card.dataset.reading;
    if (again) read(card);
  }

  const readOpen = () => document.querySelectorAll('[data-turn-state="waiting"], [data-turn-state="answering"]').forEach(read);

  document.addEventListener("live:chat", (event) => {
    const card = document.querySelector(`[data-turn="${event.detail.body.turn}"]`);  // none: somebody else's turn
    if (card) read(card);
  });
  for (const kind of ["htmx:afterSettle", "live:poll"]) document.addEventListener(kind, readOpen);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && event.target.matches("[data-prompt]")) { event.preventDefault(); event.target.form.requestSubmit(); }
  });
})();
