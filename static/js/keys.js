// Keys of every page: / goes to the search, ? shows the list of keys.
(() => {
  const list = () => document.getElementById("keys");
  const open = () => list()?.open || list()?.showModal();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (event.key === "?") open();
    else if (event.key === "/") {
      const box = document.querySelector("[data-search]");
      if (box?.offsetParent) { box.focus(); box.select(); } else location.assign(document.querySelector("a[href$='/search']").href);
    } else return;
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-keys-open]")) open();
    else if (event.target === list()) list().close();  // beside it
  });
})();
