// Keys of the review page: each presses the button that carries it. Not while one types.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
  const key = { ArrowRight: "n", j: "n", ArrowLeft: "p", k: "p" }[event.key] ?? event.key;
  const target = document.querySelector(`[data-review] [data-key="${CSS.escape(key)}"]`);
  if (!target) return;
  event.preventDefault();
  target.click();
});
