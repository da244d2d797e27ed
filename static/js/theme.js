// Light or dark: what the person chose, else what the system says. Runs before the first paint.
(() => {
  const KEY = "finetune-theme";  // Django's administration keeps its own under "theme"
  const stored = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => document.documentElement.setAttribute("data-bs-theme", stored() || (system.matches ? "dark" : "light"));
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const next = document.documentElement.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
    try { localStorage.setItem(KEY, next); } catch { /* private mode: the choice lasts for the page */ }
    document.documentElement.setAttribute("data-bs-theme", next);
  });
})();
