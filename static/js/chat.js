// A conversation: a turn that is being answered is read again whenever there is news of it, or by polling.
(() => {
  async function show(card, turn) {
    for (const [side, { text, note }] of Object.entries(turn.answers)) {
      const words = card.querySelector(`[data-answer="${side}"]`), line = card.querySelector(`[data-note="${side}"]`);
      if (words) words.textContent = text;
      if (line) line.textContent = note;
    }
    if (!turn.is_open) await finish(card);
  }

  // The whole card, with what can be done with the answers.
  async function finish(card) {
    const answer = await fetch(card.dataset.cardUrl).catch(() => null);
    if (!answer?.ok || answer.redirected) return;
    card.outerHTML = await answer.text();
    if (document.activeElement === document.body) document.querySelector("[data-prompt]")?.focus({ preventScroll: true });
  }

  // One request at a time for a turn; news that came meanwhile asks once more.
  async function read(card) {
    if (card.dataset.reading) { card.dataset.reading = "again"; return; }
    card.dataset.reading = "once";
    const answer = await fetch(card.dataset.turnUrl).catch(() => null);
    if (answer?.ok && !answer.redirected) await show(card, await answer.json());
    const again = card.dataset.reading === "again";
    delete card.dataset.reading;
    if (again && card.isConnected) read(card);
  }

  const readOpen = () => document.querySelectorAll("[data-turn-open]").forEach(read);

  document.addEventListener("live:chat", (event) => {
    const card = document.querySelector(`[data-turn="${event.detail.body.turn}"]`);  // none: somebody else's turn
    if (card) read(card);
  });
  for (const kind of ["htmx:afterSettle", "live:poll", "DOMContentLoaded"]) document.addEventListener(kind, readOpen);
  // While it waits nothing happens that could be told: what it waits for is asked now and then.
  setInterval(() => { if (!document.hidden) readOpen(); }, 3000);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.matches("[data-prompt]")) { event.preventDefault(); event.target.form.requestSubmit(); }
  });
})();
